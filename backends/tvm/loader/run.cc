// Runs a model on arrays that numpy saved, for boards without Python.
//
//   run FOLDER [--repeat N] INPUT.npy... -o PREFIX      writes PREFIX0.npy, PREFIX1.npy ... and says the least time
//
// Built on the board, next to the headers of apache-tvm-ffi and TVM's runtime library (docs/arm.md has the paths):
//   g++ -O2 -std=c++17 run.cc -I$FFI/include -L$TVM/lib -L$FFI/lib -ltvm_runtime -ltvm_ffi -o run
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "planish_model.hpp"
#ifdef PLANISH_ONNXRUNTIME  // for models with pieces that run on ONNX Runtime
#include "planish_onnxruntime.hpp"
#endif

namespace {

using planish::Tensor;

const char* const kTypes[][2] = {
    {"|b1", "bool"},  {"|i1", "int8"},   {"|u1", "uint8"},  {"<i2", "int16"},   {"<u2", "uint16"},  {"<i4", "int32"},
    {"<u4", "uint32"}, {"<i8", "int64"}, {"<u8", "uint64"}, {"<f2", "float16"}, {"<f4", "float32"}, {"<f8", "float64"},
};

std::string Between(const std::string& text, const std::string& before, const std::string& after) {
  size_t start = text.find(before);
  if (start == std::string::npos) throw std::runtime_error("a .npy header without " + before);
  start += before.size();
  return text.substr(start, text.find(after, start) - start);
}

Tensor ReadNpy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char start[8];
  if (!file.read(start, 8) || std::memcmp(start, "\x93NUMPY", 6) != 0) {
    throw std::runtime_error(path + " is no .npy file");
  }
  unsigned char length[4] = {0, 0, 0, 0};
  file.read(reinterpret_cast<char*>(length), start[6] == 1 ? 2 : 4);
  std::string header(length[0] + 256u * length[1] + 65536u * length[2], ' ');
  file.read(&header[0], static_cast<std::streamsize>(header.size()));
  if (Between(header, "'fortran_order': ", ",") != "False") {
    throw std::runtime_error(path + " is in Fortran order: save numpy.ascontiguousarray of it");
  }
  std::string code = Between(header, "'descr': '", "'"), extents = Between(header, "'shape': (", ")");
  std::vector<int64_t> shape;
  for (const char* at = extents.c_str(); *at;) {
    char* end;
    int64_t extent = std::strtoll(at, &end, 10);
    if (end != at) shape.push_back(extent);
    at = *end ? end + 1 : end;
  }
  for (const auto& type : kTypes) {
    if (code != type[0]) continue;
    Tensor tensor = planish::Empty(shape, type[1]);
    auto bytes = static_cast<std::streamsize>(tvm::ffi::GetDataSize(tensor));
    if (!file.read(static_cast<char*>(tensor.data_ptr()), bytes)) throw std::runtime_error(path + " ends too soon");
    return tensor;
  }
  throw std::runtime_error(path + " holds " + code + ", which models do not take");
}

void WriteNpy(const std::string& path, const Tensor& tensor) {
  std::string dtype = tvm::ffi::DLDataTypeToString(tensor.dtype()), code;
  for (const auto& type : kTypes) {
    if (dtype == type[1]) code = type[0];
  }
  if (code.empty()) throw std::runtime_error("numpy has no " + dtype);
  std::string shape;
  for (int64_t extent : tensor.shape()) shape += std::to_string(extent) + ",";
  std::string header = "{'descr': '" + code + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(64 - (header.size() + 11) % 64, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  char length[2] = {static_cast<char>(header.size() % 256), static_cast<char>(header.size() / 256)};
  file.write("\x93NUMPY\x01\x00", 8).write(length, 2) << header;
  auto bytes = static_cast<std::streamsize>(tvm::ffi::GetDataSize(tensor));
  file.write(static_cast<const char*>(tensor.data_ptr()), bytes);
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

int Run(int count, char** words) {
  std::string folder, prefix = "output";
  std::vector<Tensor> inputs;
  int repeat = 1;
  for (int i = 1; i < count; ++i) {
    std::string word = words[i];
    bool option = word == "-o" || word == "--repeat";
    if (option && i + 1 == count) throw std::invalid_argument(word + " wants a value");
    if (word == "-o") {
      prefix = words[++i];
    } else if (word == "--repeat") {
      repeat = std::max(1, std::atoi(words[++i]));
    } else if (folder.empty()) {
      folder = word;
    } else {
      inputs.push_back(ReadNpy(word));
    }
  }
  if (folder.empty()) throw std::invalid_argument("usage: run FOLDER [--repeat N] INPUT.npy... -o PREFIX");
#ifdef PLANISH_ONNXRUNTIME
  planish::Model model(folder, planish::LoadOnnx);
#else
  planish::Model model(folder);
#endif
  std::vector<Tensor> outputs;
  double least = 1e30;
  for (int i = 0; i < repeat; ++i) {
    auto start = std::chrono::steady_clock::now();
    outputs = model.Run(inputs);
    std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    least = std::min(least, time.count());
  }
  for (size_t i = 0; i < outputs.size(); ++i) WriteNpy(prefix + std::to_string(i) + ".npy", outputs[i]);
  std::printf("%zu outputs, least time of %d runs %.3f ms\n", outputs.size(), repeat, least);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return Run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 1;
  }
}
