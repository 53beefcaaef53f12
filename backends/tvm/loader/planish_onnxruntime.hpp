// Pieces of a model on ONNX Runtime, for models that are not TVM's alone (their manifest names files piece0.onnx ...):
//
//   planish::Model model("out", planish::LoadOnnx);
//
// Needs onnxruntime_c_api.h (of ONNX Runtime's releases, which have libraries for x86-64 and aarch64 beside it) and that
// library: g++ ... -DPLANISH_ONNXRUNTIME run.cc -I$ORT/include $ORT/lib/libonnxruntime.so
#ifndef PLANISH_ONNXRUNTIME_HPP_
#define PLANISH_ONNXRUNTIME_HPP_

#include <onnxruntime_c_api.h>

#include "planish_steps.hpp"

namespace planish {

namespace detail {

struct OnnxType {
  ONNXTensorElementDataType code;
  const char* name;
};
constexpr OnnxType kOnnxTypes[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float32"},  {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, "float64"},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "float16"}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool"},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8"},      {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8"},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, "int16"},    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, "uint16"},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32"},    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, "uint32"},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64"},    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, "uint64"},
};

inline const OrtApi& Ort() {
  static const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    throw std::runtime_error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                             " is older than the onnxruntime_c_api.h that this program was built with");
  }
  return *api;
}

inline void Check(OrtStatus* status) {
  if (status == nullptr) return;
  std::string text = Ort().GetErrorMessage(status);
  Ort().ReleaseStatus(status);
  throw std::runtime_error("ONNX Runtime: " + text);
}

inline std::shared_ptr<OrtValue> Shared(OrtValue* value) { return {value, [](OrtValue* v) { Ort().ReleaseValue(v); }}; }

/// A value of ONNX Runtime over the tensor's memory.
inline std::shared_ptr<OrtValue> Lent(const Tensor& tensor) {
  std::string dtype = ffi::DLDataTypeToString(tensor.dtype());
  OrtMemoryInfo* memory = nullptr;
  Check(Ort().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
  std::shared_ptr<OrtMemoryInfo> kept(memory, [](OrtMemoryInfo* m) { Ort().ReleaseMemoryInfo(m); });
  Numbers shape = ShapeOf(tensor);
  for (const OnnxType& type : kOnnxTypes) {
    if (dtype != type.name) continue;
    OrtValue* made = nullptr;
    Check(Ort().CreateTensorWithDataAsOrtValue(memory, tensor.data_ptr(), ffi::GetDataSize(tensor), shape.data(),
                                               shape.size(), type.code, &made));
    return Shared(made);
  }
  throw std::runtime_error("ONNX Runtime takes no " + dtype + " here");
}

inline Tensor Copied(const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  Check(Ort().GetTensorTypeAndShape(value, &info));
  std::shared_ptr<OrtTensorTypeAndShapeInfo> kept(
      info, [](OrtTensorTypeAndShapeInfo* i) { Ort().ReleaseTensorTypeAndShapeInfo(i); });
  ONNXTensorElementDataType code;
  size_t rank = 0;
  Check(Ort().GetTensorElementType(info, &code));
  Check(Ort().GetDimensionsCount(info, &rank));
  Numbers shape(rank);
  Check(Ort().GetDimensions(info, shape.data(), rank));
  for (const OnnxType& type : kOnnxTypes) {
    if (code != type.code) continue;
    Tensor made = Empty(shape, type.name);
    void* data = nullptr;
    Check(Ort().GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    if (made.numel() > 0) std::memcpy(made.data_ptr(), data, ffi::GetDataSize(made));
    return made;
  }
  throw std::runtime_error("ONNX Runtime gives elements of its type " + std::to_string(code) + ": not known here");
}

/// A session on the caller's thread; with less optimization where ONNX Runtime's own fails on a file.
inline std::shared_ptr<OrtSession> SessionOf(const std::string& path) {
  static OrtEnv* environment = [] {
    OrtEnv* made = nullptr;
    Check(Ort().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "planish", &made));
    return made;
  }();
  std::string why;
  for (GraphOptimizationLevel level : {ORT_ENABLE_ALL, ORT_ENABLE_EXTENDED, ORT_ENABLE_BASIC, ORT_DISABLE_ALL}) {
    OrtSessionOptions* options = nullptr;
    Check(Ort().CreateSessionOptions(&options));
    std::shared_ptr<OrtSessionOptions> kept(options, [](OrtSessionOptions* o) { Ort().ReleaseSessionOptions(o); });
    Check(Ort().SetIntraOpNumThreads(options, 1));
    Check(Ort().SetSessionGraphOptimizationLevel(options, level));
    OrtSession* session = nullptr;
    try {
      Check(Ort().CreateSession(environment, path.c_str(), options, &session));
      return {session, [](OrtSession* s) { Ort().ReleaseSession(s); }};
    } catch (const std::exception& error) {
      if (why.empty()) why = error.what();
    }
  }
  throw std::runtime_error(path + " cannot be loaded: " + why);
}

}  // namespace detail

/// Loads a piece: an ``OnnxLoader``.
inline OnnxPiece LoadOnnx(const std::string& path, const std::vector<std::string>& inputs,
                          const std::vector<std::string>& outputs) {
  return [session = detail::SessionOf(path), inputs, outputs](const Tensors& given) {
    std::vector<std::shared_ptr<OrtValue>> lent;
    std::vector<const OrtValue*> values;
    std::vector<const char*> names, wanted;
    for (const Tensor& tensor : given) lent.push_back(detail::Lent(tensor));
    for (const auto& value : lent) values.push_back(value.get());
    for (const std::string& name : inputs) names.push_back(name.c_str());
    for (const std::string& name : outputs) wanted.push_back(name.c_str());
    std::vector<OrtValue*> results(outputs.size(), nullptr);
    detail::Check(detail::Ort().Run(session.get(), nullptr, names.data(), values.data(), values.size(), wanted.data(),
                                    wanted.size(), results.data()));
    std::vector<std::shared_ptr<OrtValue>> kept;
    for (OrtValue* result : results) kept.push_back(detail::Shared(result));
    Tensors found;
    for (const auto& result : kept) found.push_back(detail::Copied(result.get()));
    return found;
  };
}

}  // namespace planish

#endif  // PLANISH_ONNXRUNTIME_HPP_
