// Runs a Tilewright artifact from C++, with TVM's runtime library and nothing else. See README.md.
//
//     run_artifact FOLDER INPUT.bin... : writes output0.bin, output1.bin, … and prints the first elements of each

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/device_api.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

json::Object ParseObject(const std::string& text) { return json::Parse(text).cast<json::Object>(); }

// The weights are mapped: they stay in the file until they are read.
class Weights {
 public:
  explicit Weights(const std::string& path) {
    int file = open(path.c_str(), O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) throw std::runtime_error("cannot read " + path);
    void* mapped = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (mapped == MAP_FAILED) throw std::runtime_error("cannot map " + path);
    bytes_ = static_cast<char*>(mapped);
    std::memcpy(&header_size_, bytes_, sizeof(header_size_));
    header_ = ParseObject(std::string(bytes_ + sizeof(header_size_), header_size_));
  }

  void* Find(const std::string& name) const {
    auto entry = header_.at(ffi::String(name)).cast<json::Object>();
    auto offsets = entry.at(ffi::String("data_offsets")).cast<json::Array>();
    return bytes_ + sizeof(header_size_) + header_size_ + offsets[0].cast<int64_t>();
  }

 private:
  char* bytes_ = nullptr;
  uint64_t header_size_ = 0;
  json::Object header_;
};

void Copy(tvm::runtime::DeviceAPI* api, void* from, DLDevice from_device, void* to, DLDevice to_device, int64_t size) {
  DLDataType byte{kDLUInt, 8, 1};
  DLTensor source{from, from_device, 1, byte, &size, nullptr, 0};
  DLTensor target{to, to_device, 1, byte, &size, nullptr, 0};
  api->CopyDataFromTo(&source, &target, nullptr);
}

int Run(const std::string& folder, const std::vector<std::string>& input_files) {
  json::Object manifest = ParseObject(ReadFile(folder + "/manifest.json"));
  auto steps = manifest.at(ffi::String("pipeline")).cast<json::Array>();
  auto variants = steps[0].cast<json::Object>().at(ffi::String("variants")).cast<json::Array>();
  if (steps.size() != 1 || variants.size() != 1) throw std::runtime_error("this example runs artifacts of one program");
  auto variant = variants[0].cast<json::Object>();
  auto data = variant.at(ffi::String("data")).cast<json::Object>();
  if (data.count(ffi::String("symbols"))) throw std::runtime_error("this example runs programs of fixed shapes");
  auto stored = variant.at(ffi::String("weights")).cast<json::Object>();
  std::string target = manifest.at(ffi::String("target")).cast<ffi::String>();
  Weights weights(folder + "/weights.safetensors");

  const DLDevice host{kDLCPU, 0};
  const bool cuda = target.rfind("cuda", 0) == 0;
  const DLDevice device = cuda ? DLDevice{kDLCUDA, 0} : host;
  if (cuda && dlopen("libtvm_runtime_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  auto* api = tvm::runtime::DeviceAPI::Get(device);

  // The program takes one argument: a table with the address of each of its buffers.
  std::vector<uint64_t> table;
  struct Output {
    void* address;
    int64_t size;
  };
  std::vector<Output> outputs;
  std::vector<int64_t> control;  // of a program that recurses: in the host's memory, for the calls that are active
  size_t inputs = 0;
  for (const ffi::Any& item : data.at(ffi::String("buffers")).cast<json::Array>()) {
    auto buffer = item.cast<json::Array>();
    std::string name = buffer[0].cast<ffi::String>();
    std::string kind = buffer[1].cast<ffi::String>();
    auto size = buffer[2].cast<int64_t>();
    void* address = nullptr;
    void* weight = kind == "weight" ? weights.Find(stored.at(ffi::String(name)).cast<ffi::String>()) : nullptr;
    if (weight != nullptr && !cuda) {
      address = weight;
    } else if (kind == "control") {
      control.resize(size / sizeof(int64_t));
      address = control.data();
    } else {
      address = api->AllocDataSpace(device, size > 0 ? size : 1, 64, DLDataType{kDLUInt, 8, 1});
    }
    if (weight != nullptr && cuda) Copy(api, weight, host, address, device, size);
    if (kind == "event") Copy(api, std::vector<char>(size).data(), host, address, device, size);
    if (kind == "output") outputs.push_back({address, size});
    if (kind == "input") {
      if (inputs == input_files.size()) throw std::runtime_error("too few inputs");
      std::string bytes = ReadFile(input_files[inputs++]);
      if (static_cast<int64_t>(bytes.size()) != size) {
        throw std::runtime_error(input_files[inputs - 1] + " needs " + std::to_string(size) + " bytes, has " +
                                 std::to_string(bytes.size()));
      }
      Copy(api, bytes.data(), host, address, device, size);
    }
    table.push_back(reinterpret_cast<uint64_t>(address));
  }
  if (inputs != input_files.size()) throw std::runtime_error("too many inputs");

  ffi::Module module = ffi::Module::LoadFromFile(
      folder + "/" + std::string(variant.at(ffi::String("library")).cast<ffi::String>()));
  ffi::Function main = module->GetFunction(data.at(ffi::String("entry")).cast<ffi::String>()).value();
  main(static_cast<void*>(table.data()));
  api->StreamSync(device, nullptr);
  if (!control.empty() && control[0] != 0) {
    auto name = data.at(ffi::String("procedures")).cast<json::Array>()[control[0] - 1].cast<ffi::String>();
    auto depth = data.at(ffi::String("depth")).cast<int64_t>();
    throw std::runtime_error("the recursion of " + std::string(name) + " is deeper than " + std::to_string(depth) + " calls");
  }

  for (size_t i = 0; i < outputs.size(); ++i) {
    std::vector<char> bytes(outputs[i].size);
    Copy(api, outputs[i].address, device, bytes.data(), host, outputs[i].size);
    std::string path = "output" + std::to_string(i) + ".bin";
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    auto info = manifest.at(ffi::String("outputs")).cast<json::Array>()[i].cast<json::Object>();
    std::string dtype = info.at(ffi::String("dtype")).cast<ffi::String>();
    std::printf("%s: %zu bytes of %s", path.c_str(), bytes.size(), dtype.c_str());
    for (size_t k = 0; dtype == "float32" && k < 4 && (k + 1) * sizeof(float) <= bytes.size(); ++k) {
      float value;
      std::memcpy(&value, bytes.data() + k * sizeof(float), sizeof(float));
      std::printf(" %g", value);
    }
    std::printf("\n");
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s FOLDER INPUT.bin...\n", argv[0]);
    return 2;
  }
  try {
    return Run(argv[1], {argv + 2, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
