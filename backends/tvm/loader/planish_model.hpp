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
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace planish {

using Tensor = tvm::ffi::Tensor;

/// One input, output or parameter. An extent that the caller chooses is -1, and has its name in ``open``.
struct Spec {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<std::string> open;  // as long as shape; empty for numbers
  int64_t offset = 0;
};

namespace detail {

namespace ffi = tvm::ffi;
constexpr size_t kAlignment = 64;  // what TVM's kernels take for granted

inline std::string Text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? "," : "") + (shape[i] < 0 ? std::string("?") : std::to_string(shape[i]));
  }
  return text + "]";
}

/// Open extents that are known, for messages.
inline std::string Said(const std::map<std::string, int64_t>& extents) {
  std::string text;
  for (const auto& [name, extent] : extents) {
    text += (text.empty() ? " with " : ", ") + name + " = " + std::to_string(extent);
  }
  return text;
}

struct HostMemory {
  void AllocData(DLTensor* tensor) {
    size_t bytes = ffi::GetDataSize(*tensor);
    bytes = (bytes + kAlignment) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, bytes);
    if (tensor->data == nullptr) {
      throw std::runtime_error("no memory for a tensor of " + std::to_string(bytes) + " bytes");
    }
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

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

inline DLDataType TypeOf(const std::string& dtype) { return ffi::StringToDLDataType(dtype); }

inline ffi::json::Value Entry(const ffi::json::Object& object, const char* key) {
  ffi::Any name = ffi::String(key);
  if (object.count(name) == 0) throw std::runtime_error(std::string("manifest.json has no ") + key);
  return object.at(name);
}

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

inline ffi::Function Need(const ffi::Module& module, const char* name) {
  auto function = module->GetFunction(name);
  if (!function.has_value()) throw std::runtime_error(std::string("the library has no function ") + name);
  return *function;
}

}  // namespace detail

/// An uninitialized tensor in main memory.
inline Tensor Empty(const std::vector<int64_t>& shape, const std::string& dtype) {
  for (int64_t extent : shape) {
    if (extent < 0) throw std::invalid_argument("a tensor of shape " + detail::Text(shape) + ": give its extents");
  }
  return Tensor::FromNDAlloc(detail::HostMemory(), tvm::ffi::Shape(shape.begin(), shape.end()),
                             detail::TypeOf(dtype), DLDevice{kDLCPU, 0});
}

inline Tensor Empty(const Spec& spec) { return Empty(spec.shape, spec.dtype); }

/// A loaded model. Not for several threads at once: give each its own.
class Model {
 public:
  explicit Model(const std::string& folder) {
    auto manifest = detail::ReadManifest(folder);
    detail::RequireProcessor(manifest);
    for (const char* key : {"inputs", "outputs"}) {
      (key[0] == 'i' ? inputs_ : outputs_) = detail::Specs(manifest, key);
    }
    if (manifest.count(detail::ffi::Any(detail::ffi::String("steps"))) &&
        detail::Entry(manifest, "steps").cast<detail::ffi::json::Array>().size() > 0) {
      throw std::runtime_error(folder + " has parts that run on ONNX Runtime: only the Python loader runs it");
    }
    auto file = std::make_shared<detail::Mapping>(folder + "/params.bin");
    for (const Spec& spec : detail::Specs(manifest, "params")) {
      tvm::ffi::Shape shape(spec.shape.begin(), spec.shape.end());
      parameters_.push_back(Tensor::FromNDAlloc(detail::MappedMemory{file, spec.offset}, shape,
                                                detail::TypeOf(spec.dtype), DLDevice{kDLCPU, 0}));
    }
    auto library = tvm::ffi::Module::LoadFromFile(folder + "/lib.so");
    machine_ = detail::Need(library, "vm_load_executable")().cast<tvm::ffi::Module>();
    constexpr int kPooled = 2;
    detail::Need(*machine_, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooled);
    main_ = detail::Need(*machine_, "main");
    if (manifest.count(detail::ffi::Any(detail::ffi::String("symbols")))) {
      for (const tvm::ffi::Any& name : detail::Entry(manifest, "symbols").cast<detail::ffi::json::Array>()) {
        symbols_.push_back(std::string(name.cast<tvm::ffi::String>()));
      }
    }
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
    std::vector<tvm::ffi::AnyView> arguments(inputs.begin(), inputs.end());
    arguments.insert(arguments.end(), parameters_.begin(), parameters_.end());
    std::vector<int64_t> chosen;
    for (const std::string& name : symbols_) chosen.push_back(extents.at(name));
    tvm::ffi::Shape shape(chosen.begin(), chosen.end());
    if (!chosen.empty()) arguments.push_back(shape);
    tvm::ffi::Any result;
    main_->CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    if (auto one = result.try_cast<Tensor>()) return {*one};
    std::vector<Tensor> outputs;
    for (const tvm::ffi::Any& item : result.cast<tvm::ffi::Array<tvm::ffi::Any>>()) {
      outputs.push_back(item.cast<Tensor>());
    }
    return outputs;
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

  std::vector<Spec> inputs_, outputs_;
  std::vector<std::string> symbols_;                // open extents, as the library takes them
  mutable std::map<std::string, int64_t> extents_;  // of the last run
  std::vector<Tensor> parameters_;
  std::optional<tvm::ffi::Module> machine_;
  std::optional<tvm::ffi::Function> main_;
};

}  // namespace planish

#endif  // PLANISH_MODEL_HPP_
