// Loads and runs a model that planish built with TVM: needs C++17, POSIX and TVM's runtime (libtvm_runtime.so,
// libtvm_ffi.so and their headers, all in the PyPI packages apache-tvm and apache-tvm-ffi); no compiler, no Python.
//
//   planish::Model model("out");                        // the folder with manifest.json, lib.so, params.bin
//   planish::Tensor x = planish::Empty(model.inputs()[0]);
//   std::fill_n(static_cast<float*>(x.data_ptr()), x.numel(), 0.5f);
//   std::vector<planish::Tensor> outputs = model.Run({x});
//
// Every failure is a std::exception whose what() says what was found and what was expected.
#ifndef PLANISH_MODEL_HPP_
#define PLANISH_MODEL_HPP_

#include <fcntl.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "planish_steps.hpp"

namespace planish {

/// One input, output or parameter. An extent that the caller chooses is -1, and has its name in ``open``.
struct Spec {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<std::string> open;  // as long as shape; empty for numbers
  int64_t offset = 0;
};

namespace detail {

/// Open extents that are known, for messages.
inline std::string Said(const std::map<std::string, int64_t>& extents) {
  std::string text;
  for (const auto& [name, extent] : extents) {
    text += (text.empty() ? " with " : ", ") + name + " = " + std::to_string(extent);
  }
  return text;
}

/// A file in memory, read page by page when touched; writing to it does not change the file.
class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    int file = open(path.c_str(), O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) throw std::runtime_error("cannot read " + path);
    bytes_ = static_cast<size_t>(status.st_size);
    if (bytes_ > 0) data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    close(file);
    if (data_ == MAP_FAILED) throw std::runtime_error("cannot map " + path);
  }
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

struct MappedMemory {
  std::shared_ptr<Mapping> file;
  int64_t offset;
  void AllocData(DLTensor* tensor) {
    size_t bytes = ffi::GetDataSize(*tensor);
    if (offset < 0 || static_cast<size_t>(offset) > file->bytes() || bytes > file->bytes() - offset) {
      throw std::runtime_error("params.bin ends before a parameter at " + std::to_string(offset));
    }
    tensor->data = file->data() + offset;
  }
  void FreeData(DLTensor*) {}
};

inline std::vector<Spec> Specs(const ffi::json::Object& manifest, const char* key) {
  std::vector<Spec> specs;
  for (const ffi::Any& item : Entry(manifest, key).cast<ffi::json::Array>()) {
    auto object = item.cast<ffi::json::Object>();
    Spec spec;
    spec.name = Entry(object, "name").cast<ffi::String>();
    spec.dtype = Entry(object, "dtype").cast<ffi::String>();
    for (const ffi::Any& extent : Entry(object, "shape").cast<ffi::json::Array>()) {
      auto number = extent.try_cast<int64_t>();  // a name where the caller chooses
      spec.shape.push_back(number.has_value() ? *number : -1);
      spec.open.push_back(number.has_value() ? "" : std::string(extent.cast<ffi::String>()));
    }
    if (object.count(ffi::Any(ffi::String("offset")))) spec.offset = Entry(object, "offset").cast<int64_t>();
    specs.push_back(std::move(spec));
  }
  return specs;
}

inline ffi::json::Object ReadManifest(const std::string& folder) {
  std::ifstream file(folder + "/manifest.json", std::ios::binary);
  if (!file) throw std::runtime_error(folder + " holds no manifest.json: is it a folder that planish wrote?");
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  auto manifest = ffi::json::Parse(text).cast<ffi::json::Object>();
  std::string backend = Entry(manifest, "backend").cast<ffi::String>();
  if (backend != "tvm") throw std::runtime_error(folder + " was built for " + backend + ", not for TVM");
  return manifest;
}

/// Whether this processor has what planish names so; what is unknown here is taken to be there.
inline bool Has(const std::string& feature) {
#if defined(__x86_64__)
  if (feature == "sse42") return __builtin_cpu_supports("sse4.2");
  if (feature == "avx2") return __builtin_cpu_supports("avx2");
  if (feature == "fma") return __builtin_cpu_supports("fma");
  if (feature == "avx512") return __builtin_cpu_supports("avx512f");
  if (feature == "vnni") return __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__) && defined(__linux__)
  // The kernel's numbers, <asm/hwcap.h>: older headers lack the newer names.
  unsigned long first = getauxval(AT_HWCAP), second = getauxval(26 /* AT_HWCAP2 */);
  if (feature == "fp16") return first >> 10 & 1;
  if (feature == "dotprod") return first >> 20 & 1;
  if (feature == "sve") return first >> 22 & 1;
  if (feature == "i8mm") return second >> 13 & 1;
  if (feature == "bf16") return second >> 14 & 1;
#endif
  return true;
}

/// Throws where the code would die of an instruction that this processor lacks.
inline void RequireProcessor(const ffi::json::Object& manifest) {
  if (manifest.count(ffi::Any(ffi::String("target"))) == 0) return;
  auto target = Entry(manifest, "target").cast<ffi::json::Object>();
  std::string name = Entry(target, "name").cast<ffi::String>(), arch = Entry(target, "arch").cast<ffi::String>();
#if defined(__x86_64__)
  const std::string here = "x86_64";
#elif defined(__aarch64__)
  const std::string here = "aarch64";
#elif defined(__riscv)
  const std::string here = "riscv64";
#else
  const std::string here = arch;
#endif
  if (arch != here && arch != "any") {
    throw std::runtime_error("the model was built for " + arch + " (" + name + "), this is a loader for " + here);
  }
  for (const ffi::Any& item : Entry(target, "features").cast<ffi::json::Array>()) {
    std::string feature = item.cast<ffi::String>();
    if (!Has(feature)) {
      throw std::runtime_error("the model was built for " + name + ": this processor has no " + feature);
    }
  }
}

}  // namespace detail

inline Tensor Empty(const Spec& spec) { return Empty(spec.shape, spec.dtype); }

/// A loaded model. Not for several threads at once: give each its own.
class Model {
 public:
  /// ``onnx`` loads what runs on ONNX Runtime, where the model has such pieces.
  explicit Model(const std::string& folder, OnnxLoader onnx = nullptr) {
    auto manifest = detail::ReadManifest(folder);
    detail::RequireProcessor(manifest);
    for (const char* key : {"inputs", "outputs"}) {
      (key[0] == 'i' ? inputs_ : outputs_) = detail::Specs(manifest, key);
    }
    auto file = std::make_shared<detail::Mapping>(folder + "/params.bin");
    Tensors parameters;
    detail::Numbers all;
    for (const Spec& spec : detail::Specs(manifest, "params")) {
      tvm::ffi::Shape shape(spec.shape.begin(), spec.shape.end());
      all.push_back(static_cast<int64_t>(parameters.size()));
      parameters.push_back(Tensor::FromNDAlloc(detail::MappedMemory{file, spec.offset}, shape,
                                               detail::TypeOf(spec.dtype), DLDevice{kDLCPU, 0}));
    }
    detail::Builder builder(folder, std::move(parameters), std::move(onnx));
    auto has = [&](const char* key) { return manifest.count(detail::ffi::Any(detail::ffi::String(key))) > 0; };
    if (has("steps") && detail::Entry(manifest, "steps").cast<detail::ffi::json::Array>().size() > 0) {
      steps_ = builder.Steps(detail::Entry(manifest, "steps").cast<detail::ffi::json::Array>(), NamesOf(outputs_));
      return;
    }
    detail::Names symbols = has("symbols") ? detail::NamesOf(manifest, "symbols") : detail::Names();
    auto run = builder.Kernels("main", all, NamesOf(inputs_), symbols);
    steps_ = detail::Sequence({{run, NamesOf(inputs_), NamesOf(outputs_), {}}}, NamesOf(outputs_));
  }

  const std::vector<Spec>& inputs() const { return inputs_; }
  const std::vector<Spec>& outputs() const { return outputs_; }

  /// Outputs for one set of inputs, both in the model's order.
  std::vector<Tensor> Run(const std::vector<Tensor>& inputs) const {
    std::map<std::string, int64_t> extents = Check(inputs);
    if (extents != extents_) {  // TVM keeps memory for the next run, and would keep that of every size
      extents_ = extents;
      if (auto clear = tvm::ffi::Function::GetGlobal("vm.builtin.memory_manager.clear")) (*clear)();
    }
    detail::Values values;
    for (size_t i = 0; i < inputs.size(); ++i) values.emplace(inputs_[i].name, inputs[i]);
    return (*steps_)(std::move(values), extents);
  }

 private:
  /// The values of open extents. Throws where inputs are not what the model takes.
  std::map<std::string, int64_t> Check(const std::vector<Tensor>& inputs) const {
    std::map<std::string, int64_t> extents;
    if (inputs.size() != inputs_.size()) {
      throw std::invalid_argument(std::to_string(inputs.size()) + " inputs are given, the model takes " +
                                  std::to_string(inputs_.size()));
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Spec& spec = inputs_[i];
      std::vector<int64_t> shape(inputs[i].shape().begin(), inputs[i].shape().end());
      bool fits = shape.size() == spec.shape.size();
      for (size_t d = 0; fits && d < shape.size(); ++d) {
        int64_t want = spec.shape[d];
        if (want < 0) want = extents.emplace(spec.open[d], shape[d]).first->second;
        fits = want == shape[d] && (spec.shape[d] >= 0 || want > 0);
      }
      std::string dtype = tvm::ffi::DLDataTypeToString(inputs[i].dtype());
      if (!fits || dtype != spec.dtype) {
        throw std::invalid_argument("input " + spec.name + " is " + dtype + detail::Text(shape) +
                                    ", the model takes " + spec.dtype + detail::Text(spec.shape) +
                                    detail::Said(extents));
      }
      if (reinterpret_cast<uintptr_t>(inputs[i].data_ptr()) % detail::kAlignment) {
        throw std::invalid_argument("input " + spec.name + " does not lie at a multiple of 64 bytes: use Empty()");
      }
    }
    return extents;
  }

  static detail::Names NamesOf(const std::vector<Spec>& specs) {
    detail::Names names;
    for (const Spec& spec : specs) names.push_back(spec.name);
    return names;
  }

  std::vector<Spec> inputs_, outputs_;
  mutable detail::Extents extents_;  // open ones of the last run
  std::optional<detail::Sequence> steps_;
};

}  // namespace planish

#endif  // PLANISH_MODEL_HPP_
