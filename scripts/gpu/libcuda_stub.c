/* Stands for the driver's libcuda.so.1 where there is none, so that MXNet for GPUs loads in an image build or a test: it sees no GPU.
   Every function that libmxnet.so takes from it answers CUDA_ERROR_STUB_LIBRARY. */
#define STUB(name) int name(void) { return 34; }
STUB(cuDeviceGet)
STUB(cuDevicePrimaryCtxRetain)
STUB(cuGetErrorString)
STUB(cuGraphKernelNodeGetParams)
STUB(cuGraphNodeGetType)
STUB(cuLaunchKernel)
STUB(cuModuleGetFunction)
STUB(cuModuleLoadData)
STUB(cuModuleLoadDataEx)
STUB(cuModuleUnload)
