// CUDA's streams and graphs, as far as host functions and the loader use them, on the CPU.
//
// A graph runs its nodes one after the other, of those that may come next always the one that was added last: what does
// not say behind what it comes runs too early.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

extern "C" void* TVMFFIEnvGetStream(int32_t device_type, int32_t device_id);

namespace {
struct Graph;
struct Node {
  std::function<void()> work;
  int type = -1;
  uint64_t handle = 0;
  std::vector<Graph*> bodies;
  std::vector<Node*> after;
};
struct Graph { std::vector<Node*> nodes; };
struct Stream { Graph* graph = nullptr; std::vector<Node*> last; };
struct Params {
  int32_t type, reserved[3];
  uint64_t handle;
  int32_t kind;
  uint32_t size;
  void** graphs;
  uint64_t unused[27];
};
enum { KERNEL = 0, CONDITIONAL = 13, IF = 0, WHILE = 1, INVALID = 1, CAPTURED = 900 };

std::map<uint64_t, unsigned> conditions;
std::map<uint64_t, Graph*> owners;
std::map<std::string, int> calls;
int countdown = -1, armed = -1;

bool failing(const char* name) {
  ++calls[name];
  return countdown >= 0 && countdown-- == 0;
}

void run(Graph* graph) {
  std::set<Node*> done;
  while (done.size() < graph->nodes.size()) {
    auto next = std::find_if(graph->nodes.rbegin(), graph->nodes.rend(), [&](Node* node) {
      return !done.count(node) && std::all_of(node->after.begin(), node->after.end(), [&](Node* x) { return done.count(x); });
    });
    if (next == graph->nodes.rend()) std::abort();
    Node* node = *next;
    if (node->type == WHILE) {
      while (conditions[node->handle]) run(node->bodies[0]);
    } else if (node->type == IF) {
      const size_t side = conditions[node->handle] ? 0 : 1;
      if (side < node->bodies.size()) run(node->bodies[side]);
    } else {
      node->work();
    }
    done.insert(node);
  }
}
}  // namespace

void emu_launch(std::function<void()> work) {
  auto* stream = static_cast<Stream*>(TVMFFIEnvGetStream(2, 0));
  if (stream->graph == nullptr) {
    work();
    return;
  }
  Node* node = new Node{work};
  node->after = stream->last;
  stream->graph->nodes.push_back(node);
  stream->last = {node};
}

extern "C" {
// The call after so many others fails: from now on, or from when a capture begins.
void emu_fail_in(int count) { countdown = count; }
void emu_fail_in_capture(int count) { armed = count; }
int emu_called(const char* name) { return calls[name]; }
void emu_set(unsigned long long handle, unsigned value) { conditions[handle] = value; }

int emu_cudaStreamCreate(void** stream) { *stream = new Stream; return 0; }
int emu_cudaStreamCreateWithFlags(void** stream, unsigned) {
  if (failing("cudaStreamCreateWithFlags")) return INVALID;
  *stream = new Stream;
  return 0;
}
int emu_cudaStreamDestroy(void* stream) {
  ++calls["cudaStreamDestroy"];
  delete static_cast<Stream*>(stream);
  return 0;
}
int emu_cudaStreamGetCaptureInfo(void* stream, int* status, unsigned long long*, void** graph, void* const** nodes,
                                 const void** edges, size_t* count) {
  if (failing("cudaStreamGetCaptureInfo")) return INVALID;
  auto* found = static_cast<Stream*>(stream);
  *status = found->graph != nullptr;
  if (graph) *graph = found->graph;
  if (nodes) *nodes = reinterpret_cast<void* const*>(found->last.data());
  if (edges) *edges = nullptr;
  if (count) *count = found->last.size();
  return 0;
}
int emu_cudaStreamUpdateCaptureDependencies(void* stream, void** nodes, const void*, size_t count, unsigned flags) {
  if (failing("cudaStreamUpdateCaptureDependencies") || flags != 1) return INVALID;
  auto* first = reinterpret_cast<Node**>(nodes);
  static_cast<Stream*>(stream)->last.assign(first, first + count);
  return 0;
}
int emu_cudaStreamBeginCaptureToGraph(void* stream, void* graph, void* const*, const void*, size_t, int) {
  auto* found = static_cast<Stream*>(stream);
  if (failing("cudaStreamBeginCaptureToGraph") || found->graph != nullptr) return INVALID;
  found->graph = static_cast<Graph*>(graph);
  found->last.clear();
  return 0;
}
int emu_cudaStreamBeginCapture(void* stream, int) {
  countdown = armed;
  armed = -1;
  return emu_cudaStreamBeginCaptureToGraph(stream, new Graph, nullptr, nullptr, 0, 0);
}
int emu_cudaStreamEndCapture(void* stream, void** graph) {
  auto* found = static_cast<Stream*>(stream);
  if (found->graph == nullptr) return INVALID;
  *graph = found->graph;
  found->graph = nullptr;
  return failing("cudaStreamEndCapture") ? INVALID : 0;
}
int emu_cudaGraphConditionalHandleCreate(unsigned long long* handle, void* graph, unsigned, unsigned) {
  if (failing("cudaGraphConditionalHandleCreate")) return INVALID;
  *handle = owners.size() + 1;
  owners[*handle] = static_cast<Graph*>(graph);
  return 0;
}
int emu_cudaGraphAddNode(void** node, void* graph, void* const* nodes, const void*, size_t count, void* params) {
  auto* given = static_cast<Params*>(params);
  auto* owner = static_cast<Graph*>(graph);
  const bool known = given->type == CONDITIONAL && owners.count(given->handle) && owners[given->handle] == owner;
  if (failing("cudaGraphAddNode") || !known || given->size < 1 || given->size > (given->kind == IF ? 2 : 1)) return INVALID;
  Node* made = new Node;
  made->type = given->kind;
  made->handle = given->handle;
  auto* first = reinterpret_cast<Node* const*>(nodes);
  made->after.assign(first, first + count);
  for (unsigned side = 0; side < given->size; ++side) made->bodies.push_back(new Graph);
  given->graphs = reinterpret_cast<void**>(made->bodies.data());
  owner->nodes.push_back(made);
  *node = made;
  return 0;
}
int emu_cudaGraphInstantiate(void** executable, void* graph, unsigned long long) {
  if (failing("cudaGraphInstantiate")) return INVALID;
  *executable = graph;
  return 0;
}
int emu_cudaGraphLaunch(void* executable, void*) {
  ++calls["cudaGraphLaunch"];
  run(static_cast<Graph*>(executable));
  return 0;
}
int emu_cudaGraphDestroy(void*) { return 0; }
int emu_cudaGraphExecDestroy(void*) { return 0; }
int emu_cudaGraphGetNodes(void* graph, void** nodes, size_t* count) {
  auto& found = static_cast<Graph*>(graph)->nodes;
  if (nodes) std::copy(found.begin(), found.end(), nodes);
  *count = found.size();
  return 0;
}
int emu_cudaGraphNodeGetType(void* node, int* type) {
  *type = static_cast<Node*>(node)->type < 0 ? KERNEL : CONDITIONAL;
  return 0;
}
int emu_cudaMemcpyAsync(void* to, const void* from, uint64_t bytes, int, void* stream) {
  if (static_cast<Stream*>(stream)->graph != nullptr) return CAPTURED;
  std::memcpy(to, from, bytes);
  return 0;
}
int emu_cudaStreamSynchronize(void* stream) { return static_cast<Stream*>(stream)->graph != nullptr ? CAPTURED : 0; }
int emu_cudaFree(void* memory) { std::free(memory); return 0; }
}
