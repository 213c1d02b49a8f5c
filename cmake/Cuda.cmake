# The CUDA plug-in, leanformer_cuda.so beside the addon; only included when CudaStack.cmake found everything.
#   CMAKE_CUDA_ARCHITECTURES  default: machine code for 8.x and 9.0, PTX for 7.5 and for 10.0 and later
#   CUDA_RUNTIME  Static (default), or Shared: what a simulator of the runtime needs
set(CUDA_RUNTIME Static CACHE STRING "How the CUDA runtime is linked: Static or Shared")
if(NOT CMAKE_CUDA_ARCHITECTURES)
  # Machine code of 8.0 runs on all 8.x; the driver compiles PTX of 7.5 for Turing, and PTX of 9.0 for what came after it.
  # About 630 s of processor time, 5.3 minutes on two cores: `time ninja -C FOLDER -j2 leanformer_cuda`.
  set(CMAKE_CUDA_ARCHITECTURES 75-virtual 80-real 90)
endif()
set(ENV{CUDACXX} ${NVCC_EXECUTABLE})
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(CUDA_SKIP_REASON "nvcc cannot compile here: its host compiler is missing, or it does not support this one or the architectures ${CMAKE_CUDA_ARCHITECTURES}")
  if(WITH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "WITH_CUDA=ON, but ${CUDA_SKIP_REASON}")
  endif()
  return()
endif()
enable_language(CUDA)

add_library(leanformer_cuda MODULE ${cuda_sources})
target_include_directories(leanformer_cuda PRIVATE native ${CMAKE_CURRENT_BINARY_DIR}/generated)
target_include_directories(leanformer_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${CUBLASLT_INC} ${CUSPARSE_INC})
target_link_libraries(leanformer_cuda PRIVATE ${CUBLASLT_LIB} ${CUSPARSE_LIB} ${CMAKE_DL_LIBS})
# Packing for size costs a good part of the compile time and leaves far fewer bytes than nvcc's default does, which is worth it
# where the plug-in is kept. In the simulator every process would unpack it again.
target_compile_options(leanformer_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr --extended-lambda -lineinfo $<IF:$<STREQUAL:${CUDA_RUNTIME},Shared>,--no-compress,--compress-mode=size>>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${WERROR}>>:-Werror=all-warnings>)
set_target_properties(leanformer_cuda PROPERTIES PREFIX "" CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden
  CUDA_SEPARABLE_COMPILATION OFF CUDA_RUNTIME_LIBRARY ${CUDA_RUNTIME} BUILD_RPATH "$ORIGIN")
# New tags: LD_LIBRARY_PATH comes before the folders that are written into the library.
target_link_options(leanformer_cuda PRIVATE "LINKER:--exclude-libs,ALL" "LINKER:--no-undefined" "LINKER:--enable-new-dtags")
