"""What the host function calls to make loops and branches nodes of the CUDA graph that it is captured into.

A node has a graph for its body, or for each side. What is launched there is captured from a stream of its own, which is
the current one meanwhile. Outside of a capture the same calls read what the device has decided.
"""

from __future__ import annotations

CAPTURE = """\
#include <stddef.h>
int TVMFFIEnvSetStream(int32_t device_type, int32_t device_id, void* stream, void** before);
int cudaStreamCreateWithFlags(void** stream, unsigned flags);
int cudaStreamDestroy(void* stream);
int cudaStreamGetCaptureInfo(void* stream, int* status, unsigned long long* id, void** graph, void* const** nodes,
                             const void** edges, size_t* count);
int cudaStreamUpdateCaptureDependencies(void* stream, void** nodes, const void* edges, size_t count, unsigned flags);
int cudaStreamBeginCaptureToGraph(void* stream, void* graph, void* const* nodes, const void* edges, size_t count,
                                  int mode);
int cudaStreamEndCapture(void* stream, void** graph);
int cudaGraphConditionalHandleCreate(unsigned long long* handle, void* graph, unsigned value, unsigned flags);
int cudaGraphAddNode(void** node, void* graph, void* const* nodes, const void* edges, size_t count, void* params);

/* CUDA's cudaGraphNodeParams of a conditional node: 256 bytes, zero where nothing is said. */
typedef struct {
  int32_t type, reserved[3];
  struct { uint64_t handle; int32_t type; uint32_t size; void** graphs; } conditional;
  uint64_t unused[27];
} node_params;
_Static_assert(sizeof(node_params) == 256, "the size of cudaGraphNodeParams");
enum { CONDITIONAL = 13, IF = 0, WHILE = 1, RELAXED = 2, NONBLOCKING = 1, REPLACE = 1, DEEPEST = 64 };

/* The nodes that are being filled, innermost last, and the first call that failed: after it nothing is tried, and what
   is launched goes wherever it may, for the graph will not be run. */
static _Thread_local struct {
  int64_t handle;
  void *graphs[2], *stream, *around;
} frames[DEEPEST];
static _Thread_local int depth, failed;
static _Thread_local const char* failure;

static int fails(int status, const char* call) {
  if (status && !failed) { failed = status; failure = call; }
  return failed;
}

static void enter(int side) {
  void* stream = 0;
  if (fails(cudaStreamCreateWithFlags(&stream, NONBLOCKING), "cudaStreamCreateWithFlags")) return;
  if (fails(cudaStreamBeginCaptureToGraph(stream, frames[depth - 1].graphs[side], 0, 0, 0, RELAXED),
            "cudaStreamBeginCaptureToGraph")) {
    cudaStreamDestroy(stream);
    return;
  }
  frames[depth - 1].stream = stream;
  TVMFFIEnvSetStream(2, 0, stream, &frames[depth - 1].around);
}

static void leave(void) {
  void *stream = frames[depth - 1].stream, *graph = 0;
  if (!stream) return;
  fails(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  TVMFFIEnvSetStream(2, 0, frames[depth - 1].around, 0);
  cudaStreamDestroy(stream);
  frames[depth - 1].stream = 0;
}

/* Adds a node behind what the stream was last captured into, and a frame for it. */
static void add(int64_t handle, int type, int size) {
  void *stream = TVMFFIEnvGetStream(2, 0), *graph = 0, *node = 0, *const* nodes = 0;
  const void* edges = 0;
  size_t count = 0;
  int status = 0;
  node_params params = {.type = CONDITIONAL, .conditional = {.handle = (uint64_t)handle, .type = type, .size = size}};
  if (fails(depth == DEEPEST ? 1 : 0, "control that is nested as deep") ||
      fails(cudaStreamGetCaptureInfo(stream, &status, 0, &graph, &nodes, &edges, &count), "cudaStreamGetCaptureInfo") ||
      fails(cudaGraphAddNode(&node, graph, nodes, edges, count, &params), "cudaGraphAddNode") ||
      fails(cudaStreamUpdateCaptureDependencies(stream, &node, 0, 1, REPLACE), "cudaStreamUpdateCaptureDependencies"))
    return;
  frames[depth].handle = handle;
  for (int side = 0; side < size; ++side) frames[depth].graphs[side] = params.conditional.graphs[side];
  frames[depth++].stream = 0;
}

/* Whether what is launched becomes part of a graph. */
int64_t tw_graph_captured(void) {
  int status = 0;
  if (failed) return 1;
  fails(cudaStreamGetCaptureInfo(TVMFFIEnvGetStream(2, 0), &status, 0, 0, 0, 0, 0), "cudaStreamGetCaptureInfo");
  return failed || status != 0;
}

/* What a kernel tells the graph by, which the next node will be about. */
int64_t tw_graph_handle(int64_t captured) {
  unsigned long long handle = 0;
  void* graph = 0;
  void* stream = TVMFFIEnvGetStream(2, 0);
  int status = 0;
  if (!captured || failed) return 0;
  if (!fails(cudaStreamGetCaptureInfo(stream, &status, 0, &graph, 0, 0, 0), "cudaStreamGetCaptureInfo"))
    fails(cudaGraphConditionalHandleCreate(&handle, graph, 0, 0), "cudaGraphConditionalHandleCreate");
  return (int64_t)handle;
}

static int goes_on(const void* cell) {
  int64_t found = 0;
  read_back(&found, cell, sizeof found);
  return found != 0;
}

/* Whether the body of a loop comes next: under capture once. */
int32_t tw_graph_again(int64_t captured, int64_t handle, const void* cell) {
  if (!captured) return goes_on(cell);
  if (failed) return 0;
  if (depth && frames[depth - 1].handle == handle) {
    leave();
    --depth;
    return 0;
  }
  add(handle, WHILE, 1);
  if (!failed) enter(0);
  return !failed;
}

/* Which of the sides of a branch that have steps come next, as bits: under capture all of them. */
int32_t tw_graph_sides(int64_t captured, int64_t handle, const void* cell, int32_t sides) {
  if (!captured) return goes_on(cell) ? 1 : 2;
  if (failed) return 0;
  add(handle, IF, sides);
  return failed ? 0 : (1 << sides) - 1;
}

int32_t tw_graph_enter(int64_t captured, int32_t side) {
  if (captured && !failed) enter(side);
  return 0;
}

int32_t tw_graph_leave(int64_t captured) {
  if (captured && !failed) leave();
  return 0;
}

int32_t tw_graph_joined(int64_t captured) {
  if (captured && !failed) --depth;  /* else there may be no frame, and what there is ends with the capture */
  return 0;
}

/* Ends what was left open, and forgets: the status of the call that failed and its name, or 0. */
int32_t tw_graph_failed(const char** call) {
  int status = 0;
  for (; depth; --depth) leave();
  status = failed;
  *call = status ? failure : "";
  failed = 0;
  return status;
}
"""
"""C source, behind `READ_BACK`, that is linked into the library of a program of which the device decides something."""
