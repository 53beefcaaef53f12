// Tensors, and the steps of a model: functions of its library, branches and loops of these, and what ONNX Runtime runs.
#ifndef PLANISH_STEPS_HPP_
#define PLANISH_STEPS_HPP_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace planish {

using Tensor = tvm::ffi::Tensor;
using Tensors = std::vector<Tensor>;

/// Runs a piece of the model that is an ONNX file: its inputs to its outputs, both in the order of their names.
using OnnxPiece = std::function<Tensors(const Tensors& inputs)>;
/// Loads such a file. planish_onnxruntime.hpp has one that takes ONNX Runtime.
using OnnxLoader = std::function<OnnxPiece(const std::string& path, const std::vector<std::string>& inputs,
                                           const std::vector<std::string>& outputs)>;

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

inline DLDataType TypeOf(const std::string& dtype) { return ffi::StringToDLDataType(dtype); }

}  // namespace detail

/// An uninitialized tensor in main memory.
inline Tensor Empty(const std::vector<int64_t>& shape, const std::string& dtype) {
  for (int64_t extent : shape) {
    if (extent < 0) throw std::invalid_argument("a tensor of shape " + detail::Text(shape) + ": give its extents");
  }
  return Tensor::FromNDAlloc(detail::HostMemory(), tvm::ffi::Shape(shape.begin(), shape.end()),
                             detail::TypeOf(dtype), DLDevice{kDLCPU, 0});
}


namespace detail {

inline ffi::json::Value Entry(const ffi::json::Object& object, const char* key) {
  ffi::Any name = ffi::String(key);
  if (object.count(name) == 0) throw std::runtime_error(std::string("manifest.json has no ") + key);
  return object.at(name);
}

inline ffi::Function Need(const ffi::Module& module, const char* name) {
  auto function = module->GetFunction(name);
  if (!function.has_value()) throw std::runtime_error(std::string("the library has no function ") + name);
  return *function;
}

using Names = std::vector<std::string>;
using Numbers = std::vector<int64_t>;
using Values = std::map<std::string, Tensor>;
using Extents = std::map<std::string, int64_t>;  // open ones, by name
using Run = std::function<Tensors(const Values&, const Extents&)>;

inline std::string Name(const ffi::json::Object& object, const char* key) {
  return std::string(Entry(object, key).cast<ffi::String>());
}

inline Names NamesOf(const ffi::json::Object& object, const char* key) {
  Names names;
  for (const ffi::Any& name : Entry(object, key).cast<ffi::json::Array>()) {
    names.push_back(std::string(name.cast<ffi::String>()));
  }
  return names;
}

inline Numbers NumbersOf(const ffi::Any& array) {
  Numbers numbers;
  for (const ffi::Any& number : array.cast<ffi::json::Array>()) numbers.push_back(number.cast<int64_t>());
  return numbers;
}

inline Tensors Gathered(const Values& values, const Names& names) {
  Tensors found;
  for (const std::string& name : names) found.push_back(values.at(name));
  return found;
}

inline Numbers ShapeOf(const Tensor& tensor) { return {tensor.shape().begin(), tensor.shape().end()}; }

inline char* Bytes(const Tensor& tensor) { return static_cast<char*>(tensor.data_ptr()); }

/// The only element of a tensor of bool or int64.
template <typename T>
T Scalar(const Tensor& tensor) {
  if (tensor.numel() != 1) throw std::runtime_error("a condition or count of shape " + Text(ShapeOf(tensor)));
  T value;
  std::memcpy(&value, tensor.data_ptr(), sizeof(T));
  return value;
}

inline bool IsTrue(const Tensor& tensor) { return Scalar<uint8_t>(tensor) != 0; }

template <typename T>
Tensor Filled(const Numbers& shape, const char* dtype, T value) {
  Tensor tensor = Empty(shape, dtype);
  for (int64_t i = 0; i < tensor.numel(); ++i) std::memcpy(Bytes(tensor) + i * sizeof(T), &value, sizeof(T));
  return tensor;
}

/// Copies one place of an axis: out of a tensor into a row that lacks the axis, or back.
inline void CopyPlace(const Tensor& tensor, int64_t axis, int64_t place, const Tensor& row, bool out) {
  Numbers shape = ShapeOf(tensor);
  int64_t before = 1;
  for (int64_t d = 0; d < axis; ++d) before *= shape[d];
  if (row.numel() == 0) return;
  size_t bytes = ffi::GetDataSize(row) / before;
  for (int64_t i = 0; i < before; ++i) {
    char* whole = Bytes(tensor) + (i * shape[axis] + place) * bytes;
    char* part = Bytes(row) + i * bytes;
    std::memcpy(out ? part : whole, out ? whole : part, bytes);
  }
}

inline Tensor Taken(const Tensor& tensor, int64_t axis, int64_t place) {
  Numbers shape = ShapeOf(tensor);
  shape.erase(shape.begin() + axis);
  Tensor row = Empty(shape, ffi::DLDataTypeToString(tensor.dtype()));
  CopyPlace(tensor, axis, place, row, true);
  return row;
}

/// What turns give, to be put together along an axis.
struct Stacked {
  std::string dtype;
  Numbers shape;  // of one turn's, for where there is none
  int64_t axis = 0;
  bool backwards = false;

  Tensor Of(const Tensors& rows) const {
    Numbers whole = rows.empty() ? shape : ShapeOf(rows[0]);
    auto count = static_cast<int64_t>(rows.size());
    whole.insert(whole.begin() + axis, count);
    Tensor result = Empty(whole, dtype);
    for (int64_t i = 0; i < count; ++i) CopyPlace(result, axis, backwards ? count - 1 - i : i, rows[i], false);
    return result;
  }
};

/// Steps that run one after the other; values go by name, and are dropped when no step behind reads them.
class Sequence {
 public:
  struct Step {
    Run run;
    Names reads, outputs, dropped;
  };

  Sequence(std::vector<Step> steps, Names outputs) : steps_(std::move(steps)), outputs_(std::move(outputs)) {
    std::set<std::string> later(outputs_.begin(), outputs_.end());
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      for (const Names* names : {&step->reads, &step->outputs}) {
        for (const std::string& name : *names) {
          if (later.insert(name).second) step->dropped.push_back(name);
        }
      }
    }
  }

  Tensors operator()(Values values, const Extents& extents) const {
    for (const Step& step : steps_) {
      Tensors found = step.run(values, extents);
      if (found.size() != step.outputs.size()) throw std::runtime_error("a step gives other results than it says");
      for (size_t i = 0; i < found.size(); ++i) values.insert_or_assign(step.outputs[i], found[i]);
      for (const std::string& name : step.dropped) values.erase(name);
    }
    return Gathered(values, outputs_);
  }

 private:
  std::vector<Step> steps_;
  Names outputs_;
};

/// Makes what runs the steps of a manifest.
class Builder {
 public:
  Builder(std::string folder, Tensors parameters, OnnxLoader onnx)
      : folder_(std::move(folder)), parameters_(std::move(parameters)), onnx_(std::move(onnx)) {}

  Sequence Steps(const ffi::json::Array& steps, const Names& outputs) {
    std::vector<Sequence::Step> made;
    for (const ffi::Any& item : steps) {
      auto step = item.cast<ffi::json::Object>();
      Names reads = NamesOf(step, "inputs");
      if (step.count(ffi::Any(ffi::String("bodies")))) {
        for (const ffi::Any& body : Entry(step, "bodies").cast<ffi::json::Array>()) {
          Names more = NamesOf(body.cast<ffi::json::Object>(), "captured");
          reads.insert(reads.end(), more.begin(), more.end());
        }
      }
      made.push_back({Made(step), reads, NamesOf(step, "outputs"), {}});
    }
    return Sequence(std::move(made), outputs);
  }

  /// A function of the library; ``params`` are numbers of parameters.
  Run Kernels(const std::string& function, const Numbers& params, const Names& inputs, const Names& symbols) {
    ffi::Function call = Need(Machine(), function.c_str());
    Tensors own;
    for (int64_t i : params) own.push_back(parameters_.at(i));
    return [machine = *machine_, call, own, inputs, symbols](const Values& values, const Extents& extents) {
      Tensors given = Gathered(values, inputs);
      std::vector<ffi::AnyView> arguments(given.begin(), given.end());
      arguments.insert(arguments.end(), own.begin(), own.end());
      Numbers chosen;
      for (const std::string& name : symbols) chosen.push_back(extents.at(name));
      ffi::Shape shape(chosen.begin(), chosen.end());
      if (!chosen.empty()) arguments.push_back(shape);
      ffi::Any result;
      call.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
      if (auto one = result.try_cast<Tensor>()) return Tensors{*one};
      Tensors found;
      for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) found.push_back(item.cast<Tensor>());
      return found;
    };
  }

 private:
  using Body = std::function<Tensors(const Values&, const Extents&, const Tensors& arguments)>;

  Run Made(const ffi::json::Object& step) {
    std::string backend = Name(step, "backend");
    Names inputs = NamesOf(step, "inputs");
    if (backend == "tvm") {
      return Kernels(Name(step, "function"), NumbersOf(Entry(step, "params")), inputs, NamesOf(step, "symbols"));
    }
    if (backend == "ort") return Onnx(step);
    std::vector<Body> bodies;
    for (const ffi::Any& body : Entry(step, "bodies").cast<ffi::json::Array>()) {
      bodies.push_back(BodyOf(body.cast<ffi::json::Object>()));
    }
    std::string op = Name(step, "op");
    if (op == "Loop") return Loop(step, bodies.at(0));
    if (op == "Scan") return Scan(step, bodies.at(0));
    if (op != "If") throw std::runtime_error("this loader runs no " + op + ": was the model built by a newer planish?");
    return [condition = inputs.at(0), yes = bodies.at(0), no = bodies.at(1)](const Values& values, const Extents& extents) {
      return (IsTrue(values.at(condition)) ? yes : no)(values, extents, {});
    };
  }

  Run Onnx(const ffi::json::Object& step) {
    std::string path = folder_ + "/" + Name(step, "file"), why;
    for (const auto& [op, reason] : Entry(step, "reasons").cast<ffi::json::Object>()) {
      why += (why.empty() ? "" : ", ") + std::string(op.cast<ffi::String>()) + ": " + std::string(reason.cast<ffi::String>());
    }
    if (!onnx_) {
      throw std::runtime_error(path + " runs on ONNX Runtime (" + why +
                               "): build the program with -DPLANISH_ONNXRUNTIME, or give Model an OnnxLoader as in planish_onnxruntime.hpp");
    }
    Names inputs = NamesOf(step, "inputs");
    OnnxPiece piece = onnx_(path, inputs, NamesOf(step, "outputs"));
    return [piece, inputs](const Values& values, const Extents&) { return piece(Gathered(values, inputs)); };
  }

  /// What is known around a body goes behind its own arguments.
  Body BodyOf(const ffi::json::Object& spec) {
    Sequence steps = Steps(Entry(spec, "steps").cast<ffi::json::Array>(), NamesOf(spec, "outputs"));
    return [steps, inputs = NamesOf(spec, "inputs"), captured = NamesOf(spec, "captured")](
               const Values& values, const Extents& extents, const Tensors& arguments) {
      Tensors given = arguments, more = Gathered(values, captured);
      given.insert(given.end(), more.begin(), more.end());
      if (given.size() != inputs.size()) throw std::runtime_error("a body gets other inputs than it says");
      Values own;
      for (size_t i = 0; i < inputs.size(); ++i) own.emplace(inputs[i], given[i]);
      return steps(std::move(own), extents);
    };
  }

  static std::vector<Stacked> StackedOf(const ffi::json::Object& step) {
    std::vector<Stacked> found;
    for (const ffi::Any& item : Entry(step, "stacked").cast<ffi::json::Array>()) {
      auto object = item.cast<ffi::json::Object>();
      found.push_back({Name(object, "dtype"), NumbersOf(Entry(object, "shape"))});
    }
    return found;
  }

  static Tensors Results(Tensors state, const std::vector<Tensors>& rows, const std::vector<Stacked>& stacked) {
    for (size_t i = 0; i < rows.size(); ++i) state.push_back(stacked[i].Of(rows[i]));
    return state;
  }

  Run Loop(const ffi::json::Object& step, const Body& body) {
    Names inputs = NamesOf(step, "inputs");
    Names carried(inputs.begin() + 2, inputs.end());
    auto first = Entry(step, "first").cast<ffi::json::Array>();
    return [=, number = NumbersOf(first[0]), condition = NumbersOf(first[1]), stacked = StackedOf(step)](
               const Values& values, const Extents& extents) {
      int64_t most = std::numeric_limits<int64_t>::max();
      if (!inputs[0].empty()) most = Scalar<int64_t>(values.at(inputs[0]));
      bool going = inputs[1].empty() || IsTrue(values.at(inputs[1]));
      Tensors state = Gathered(values, carried);
      std::vector<Tensors> rows(stacked.size());
      for (int64_t turn = 0; going && turn < most; ++turn) {
        Tensors arguments{Filled<int64_t>(number, "int64", turn), Filled<uint8_t>(condition, "bool", 1)};
        arguments.insert(arguments.end(), state.begin(), state.end());
        Tensors found = body(values, extents, arguments);
        going = IsTrue(found.at(0));
        for (size_t i = 0; i < state.size(); ++i) state[i] = found.at(1 + i);
        for (size_t i = 0; i < rows.size(); ++i) rows[i].push_back(found.at(1 + state.size() + i));
      }
      return Results(std::move(state), rows, stacked);
    };
  }

  Run Scan(const ffi::json::Object& step, const Body& body) {
    Names inputs = NamesOf(step, "inputs");
    Numbers axes = NumbersOf(Entry(step, "input_axes")), backwards = NumbersOf(Entry(step, "input_directions"));
    Numbers out_axes = NumbersOf(Entry(step, "output_axes"));
    Numbers out_backwards = NumbersOf(Entry(step, "output_directions"));
    std::vector<Stacked> stacked = StackedOf(step);
    for (size_t i = 0; i < stacked.size(); ++i) {
      stacked[i].axis = out_axes.at(i);
      stacked[i].backwards = out_backwards.at(i) != 0;
    }
    Names carried(inputs.begin(), inputs.end() - static_cast<int64_t>(axes.size()));
    Names scanned(inputs.begin() + static_cast<int64_t>(carried.size()), inputs.end());
    return [=](const Values& values, const Extents& extents) {
      Tensors state = Gathered(values, carried), given = Gathered(values, scanned);
      std::vector<Tensors> rows(stacked.size());
      int64_t turns = given.at(0).shape()[axes.at(0)];
      for (int64_t turn = 0; turn < turns; ++turn) {
        Tensors arguments = state;
        for (size_t i = 0; i < given.size(); ++i) {
          arguments.push_back(Taken(given[i], axes[i], backwards[i] ? turns - 1 - turn : turn));
        }
        Tensors found = body(values, extents, arguments);
        for (size_t i = 0; i < state.size(); ++i) state[i] = found.at(i);
        for (size_t i = 0; i < rows.size(); ++i) rows[i].push_back(found.at(state.size() + i));
      }
      return Results(std::move(state), rows, stacked);
    };
  }

  /// The virtual machine of the library, loaded when something asks for it.
  const ffi::Module& Machine() {
    if (!machine_) {
      auto library = ffi::Module::LoadFromFile(folder_ + "/lib.so");
      machine_ = Need(library, "vm_load_executable")().cast<ffi::Module>();
      constexpr int kPooled = 2;
      Need(*machine_, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooled);
    }
    return *machine_;
  }

  std::string folder_;
  Tensors parameters_;
  OnnxLoader onnx_;
  std::optional<ffi::Module> machine_;
};

}  // namespace detail

}  // namespace planish

#endif  // PLANISH_STEPS_HPP_
