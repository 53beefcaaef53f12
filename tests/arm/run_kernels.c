/* Runs kernels of a library without TVM's runtime, for processors that it has no wheel for.

   run_kernels LIBRARY PLAN: the plan is a text of commands,
     storage NUMBER BYTES [FILE]                      memory, filled from a file
     call KERNEL OPERANDS                             followed by as many lines
       STORAGE OFFSET CODE BITS RANK EXTENT...        (bytes; DLPack's type code and bits)
     write NUMBER BYTES FILE
   Structures are those of DLPack 1 and of tvm-ffi's C ABI (tvm/ffi/c_api.h). */

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DL_TENSOR_POINTER = 7, CPU = 1, MOST = 256, RANK = 8, OPERANDS = 64 };

typedef struct {
  void *data;
  int32_t device_type, device_id, rank;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;

typedef struct {
  int32_t type_index;
  uint32_t zero_padding;
  void *pointer;
} Any;

typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

static void *storages[MOST];

static void fail(const char *what, const char *which) {
  fprintf(stderr, "run_kernels: %s %s\n", what, which);
  exit(1);
}

/* What kernels call where an operand is not as they expect. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stderr);
  fputc('\n', stderr);
}

/* Work of many tasks, one after another. */
int TVMBackendParallelLaunch(int (*task)(int, void *, void *), void *data, int count) {
  struct {
    void *sync;
    int32_t count;
  } group = {NULL, 1};
  (void)count;
  return task(0, &group, data);
}

void *TVMBackendAllocWorkspace(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

int TVMBackendFreeWorkspace(int type, int id, void *pointer) {
  (void)type, (void)id;
  free(pointer);
  return 0;
}

/* Libraries have pointers to what they use of the runtime, which whoever loads them sets. */
static void introduce(void *library) {
  struct {
    const char *name;
    void *function;
  } known[] = {{"__TVMBackendParallelLaunch", (void *)TVMBackendParallelLaunch},
               {"__TVMBackendAllocWorkspace", (void *)TVMBackendAllocWorkspace},
               {"__TVMBackendFreeWorkspace", (void *)TVMBackendFreeWorkspace}};
  for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
    void **place = dlsym(library, known[i].name);
    if (place) *place = known[i].function;
  }
}

static void move(const char *path, const char *mode, void *data, size_t bytes) {
  FILE *file = fopen(path, mode);
  if (!file) fail("cannot open", path);
  size_t done = mode[0] == 'r' ? fread(data, 1, bytes, file) : fwrite(data, 1, bytes, file);
  if (done != bytes || fclose(file)) fail("wrong size of", path);
}

static void read_operand(FILE *plan, Tensor *tensor, int64_t *shape, int64_t *strides) {
  int storage, code, bits, rank;
  long offset;
  if (fscanf(plan, "%d %ld %d %d %d", &storage, &offset, &code, &bits, &rank) != 5 || rank > RANK) fail("bad", "operand");
  for (int i = 0; i < rank; ++i)
    if (fscanf(plan, "%ld", &shape[i]) != 1) fail("bad", "extent");
  for (int i = rank - 1; i >= 0; --i) strides[i] = i + 1 < rank ? strides[i + 1] * shape[i + 1] : 1;
  Tensor made = {(char *)storages[storage] + offset, CPU, 0, rank, code, bits, 1, shape, strides, 0};
  *tensor = made;
}

static void run(FILE *plan, void *library) {
  static int64_t shapes[OPERANDS][RANK], strides[OPERANDS][RANK];
  Tensor tensors[OPERANDS];
  Any arguments[OPERANDS], result = {0, 0, NULL};
  char name[200], symbol[256];
  int count;
  if (fscanf(plan, "%199s %d", name, &count) != 2 || count > OPERANDS) fail("bad", "call");
  for (int i = 0; i < count; ++i) {
    read_operand(plan, &tensors[i], shapes[i], strides[i]);
    Any argument = {DL_TENSOR_POINTER, 0, &tensors[i]};
    arguments[i] = argument;
  }
  snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", name);
  Kernel kernel = (Kernel)dlsym(library, symbol);
  if (!kernel) fail("no kernel", name);
  if (kernel(NULL, arguments, count, &result)) fail("it failed:", name);
}

int main(int count, char **words) {
  if (count != 3) fail("takes", "LIBRARY PLAN");
  void *library = dlopen(words[1], RTLD_NOW);
  if (!library) fail("cannot load it:", dlerror());
  introduce(library);
  FILE *plan = fopen(words[2], "r");
  if (!plan) fail("cannot open", words[2]);
  char command[20], path[2000];
  int number;
  size_t bytes;
  while (fscanf(plan, "%19s", command) == 1) {
    if (!strcmp(command, "call")) {
      run(plan, library);
      continue;
    }
    if (fscanf(plan, "%d %zu", &number, &bytes) != 2 || number >= MOST) fail("bad", command);
    if (!strcmp(command, "write")) {
      if (fscanf(plan, "%1999s", path) != 1) fail("bad", command);
      move(path, "wb", storages[number], bytes);
      continue;
    }
    storages[number] = TVMBackendAllocWorkspace(CPU, 0, bytes + 64, 0, 0);
    int next = fgetc(plan);
    if (next == ' ' && fscanf(plan, "%1999s", path) == 1) move(path, "rb", storages[number], bytes);
  }
  return 0;
}
