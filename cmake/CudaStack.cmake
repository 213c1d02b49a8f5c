# Looks for what the CUDA backend needs: nvcc, cuBLASLt and cuSPARSE; NCCL is optional. Sets CUDA_SKIP_REASON to one
# sentence, or to nothing when the backend can be built. Searches before any CUDA language is enabled, since a failing
# enable_language() could not be undone.
#   CUDA_STACK_ROOT (cache variable or environment, a list): a toolkit, a virtual environment, a site-packages folder or
#   a `pip install --target` folder with the nvidia wheels.  WITH_CUDA: AUTO, ON (a skip is an error) or OFF.
set(WITH_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set(CUDA_SKIP_REASON "")
set(stack_roots ${CUDA_STACK_ROOT})
if(NOT stack_roots AND DEFINED ENV{CUDA_STACK_ROOT})
  file(TO_CMAKE_PATH "$ENV{CUDA_STACK_ROOT}" stack_roots)
endif()
set(stack_prefixes "")
foreach(root IN LISTS stack_roots)
  file(GLOB site_packages LIST_DIRECTORIES TRUE "${root}/lib/python3*/site-packages")
  foreach(folder IN ITEMS ${root} LISTS site_packages)
    file(GLOB wheels LIST_DIRECTORIES TRUE "${folder}/nvidia/*")  # nvidia/cu13, nvidia/nccl, ...
    list(APPEND stack_prefixes ${folder} ${wheels})
  endforeach()
endforeach()

# Finds a header and a library; the versioned file names are what the wheels carry.
macro(stack_find variable header)
  find_path(${variable}_INC ${header} HINTS ${stack_prefixes} ENV CUDA_HOME ENV CUDA_PATH ${nvcc_root}
    PATH_SUFFIXES include)
  find_library(${variable}_LIB NAMES ${ARGN} HINTS ${stack_prefixes} ENV CUDA_HOME ENV CUDA_PATH ${nvcc_root}
    PATH_SUFFIXES lib64 lib lib/x64)
endmacro()

file(GLOB cuda_sources CONFIGURE_DEPENDS native/cuda/*.cu)
if(WITH_CUDA STREQUAL "OFF")
  set(CUDA_SKIP_REASON "switched off at build time (WITH_CUDA=OFF)")
else()
  find_program(NVCC_EXECUTABLE NAMES $ENV{CUDACXX} nvcc
    HINTS ${stack_prefixes} ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin)
  if(NOT NVCC_EXECUTABLE)
    set(CUDA_SKIP_REASON "nvcc was not found when this was built (CUDACXX, PATH, CUDA_HOME, CUDA_STACK_ROOT)")
  else()
    set(nvcc_root "")
    # nvcc may be a wrapper script: ask it where it lives.
    execute_process(COMMAND ${NVCC_EXECUTABLE} -v --dryrun -x cu /dev/null ERROR_VARIABLE dryrun OUTPUT_QUIET)
    if(dryrun MATCHES "#\\$ TOP=([^\r\n]*)")
      get_filename_component(nvcc_root "${CMAKE_MATCH_1}" ABSOLUTE)
    endif()
    stack_find(CUBLASLT cublasLt.h cublasLt libcublasLt.so.13 libcublasLt.so.12)
    stack_find(CUSPARSE cusparse.h cusparse libcusparse.so.12)  # CUDA 13 still has cusparse .so.12
    stack_find(NCCL nccl.h nccl libnccl.so.2)
    set(missing "")
    foreach(part IN ITEMS cublasLt cusparse)
      string(TOUPPER ${part} variable)
      if(NOT ${variable}_INC)
        list(APPEND missing "${part} headers")
      endif()
      if(NOT ${variable}_LIB)
        list(APPEND missing "${part} library")
      endif()
    endforeach()
    if(missing)
      list(JOIN missing ", " missing)
      set(CUDA_SKIP_REASON "nvcc was found but the toolkit is incomplete: missing ${missing}; set CUDA_STACK_ROOT")
    elseif(NOT cuda_sources)
      set(CUDA_SKIP_REASON "the CUDA backend has no sources in this version")
    endif()
  endif()
endif()
if(CUDA_SKIP_REASON AND WITH_CUDA STREQUAL "ON")
  message(FATAL_ERROR "WITH_CUDA=ON, but ${CUDA_SKIP_REASON}")
endif()
