// In place of Horovod's cuda_kernels.cu, which only nvcc can compile: copies into and out of the fusion buffer by the CUDA runtime, one
// call for each tensor (HOROVOD_BATCH_D2D_MEMCOPIES=0, which gluon_bot sets, does the same without calling this). Scaling is left out:
// gluon_bot asks for sums, and for averages, which NCCL 2.10 and later compute themselves.
#include "cuda_kernels.h"

#include <stdexcept>

namespace horovod {
namespace common {

void BatchedD2DMemcpyCudaImpl(BatchedD2DParams& params, int num_copies, cudaStream_t stream) {
  for (int i = 0; i < num_copies; ++i) {
    auto error = cudaMemcpyAsync(params.out[i], params.in[i], params.sizes[i], cudaMemcpyDeviceToDevice, stream);
    if (error != cudaSuccess) {
      throw std::logic_error(std::string("cudaMemcpyAsync failed: ") + cudaGetErrorString(error));
    }
  }
}

void ScaleBufferCudaImpl(const void*, void*, const int64_t, double scale_factor, DataType, cudaStream_t) {
  throw std::logic_error("this Horovod is built without kernels that scale by " + std::to_string(scale_factor));
}

void BatchedScaledD2DMemcpyCudaImpl(BatchedD2DParams& params, int num_copies, double scale_factor, DataType dtype,
                                    cudaStream_t stream) {
  if (scale_factor != 1.0) {
    ScaleBufferCudaImpl(nullptr, nullptr, 0, scale_factor, dtype, stream);
  }
  BatchedD2DMemcpyCudaImpl(params, num_copies, stream);
}

} // namespace common
} // namespace horovod
