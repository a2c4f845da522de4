"""Prepare Horovod 0.28.1 for a build with NCCL but without a CUDA compiler: horovod_source.py SDIST FOLDER SITE_PACKAGES

Unpacks the verified source into FOLDER, replaces its one CUDA file by cuda_kernels.cc, and has CMake take the headers and
the runtime of NVIDIA's wheels in SITE_PACKAGES. Prints the folder to build. Any line that is not where it was is an error.
"""

import hashlib
import re
import sys
import tarfile
from pathlib import Path

SHA256 = '92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0'
KERNELS = 'horovod/common/ops/cuda/'
# from the search for a CUDA compiler to the macro that looks for its toolkit
SEARCH = r'include\(CheckLanguage\)\n.*?\nmacro\(ADD_CUDA\)\n' \
    r'    find_package\(CUDAToolkit REQUIRED\)\n    include_directories\(SYSTEM [^\n]*\)'
FOUND = 'macro(ADD_CUDA)\n    include_directories(SYSTEM %s)\n    list(APPEND LINKER_LIBS "%s")'
LIBRARIES = '''\
add_library(horovod_cuda_kernels STATIC cuda_kernels.cc)
add_library(compatible_horovod_cuda_kernels STATIC cuda_kernels.cc)
target_compile_definitions(compatible_horovod_cuda_kernels PRIVATE _GLIBCXX_USE_CXX11_ABI=0)
'''


def replace(path: Path, pattern: str, replacement: str) -> None:
    """Replace the one place in a file that matches `pattern`."""
    text, count = re.subn(pattern, lambda match: replacement, path.read_text(), flags=re.S)
    if count != 1:
        sys.exit('horovod_source.py: %s: found %d places to change instead of one' % (path, count))
    path.write_text(text)


def prepare(sdist: Path, folder: Path, site_packages: Path) -> Path:
    """The patched source tree. Ends the program where the archive is not the published one or cannot be patched."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit('horovod_source.py: %s: checksum mismatch: sha256 is %s, of the published one %s; download it again'
                 % (sdist, found, SHA256))
    with tarfile.open(str(sdist)) as tar:
        tar.extractall(str(folder))
    source = folder / 'horovod-0.28.1'
    nvidia = site_packages / 'nvidia'
    includes = sorted(str(path) for path in nvidia.glob('*/include'))
    replace(source / 'CMakeLists.txt', SEARCH, FOUND % (
        ' '.join('"%s"' % path for path in includes), nvidia / 'cuda_runtime/lib/libcudart.so.11.0'))
    # the name that every driver has; libcuda.so alone comes with development packages
    replace(source / 'horovod/mxnet/cuda_util.cc', r'dlopen\("libcuda\.so"', 'dlopen("libcuda.so.1"')
    (source / KERNELS / 'cuda_kernels.cu').unlink()
    (source / KERNELS / 'CMakeLists.txt').write_text(LIBRARIES)
    (source / KERNELS / 'cuda_kernels.cc').write_text((Path(__file__).parent / 'cuda_kernels.cc').read_text())
    return source


if __name__ == '__main__':
    print(prepare(*(Path(argument).resolve() for argument in sys.argv[1:])))
