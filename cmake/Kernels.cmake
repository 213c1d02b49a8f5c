# The kernels, compiled once per instruction set; fills KERNEL_OBJECTS. One object library each: kernels_plain, and on
# x86-64 kernels_avx2 and kernels_avx512, whose files named *_avx512bf16.cpp may use the BF16 instructions as well, and
# those named *_amx.cpp the tile instructions on top of them.
# Which of them runs is decided at run time.
include(CheckCXXCompilerFlag)
set(KERNEL_OBJECTS "")
file(GLOB kernel_sources CONFIGURE_DEPENDS native/ops/*.cpp native/cpu/isa/*.cpp)
file(GLOB bf16_sources CONFIGURE_DEPENDS native/ops/*_avx512bf16.cpp native/cpu/isa/*_avx512bf16.cpp)
file(GLOB amx_sources CONFIGURE_DEPENDS native/ops/*_amx.cpp native/cpu/isa/*_amx.cpp)
if(bf16_sources)
  list(REMOVE_ITEM kernel_sources ${bf16_sources} ${amx_sources})
endif()

function(add_kernels name isa sources)
  if(NOT sources)
    return()
  endif()
  add_library(${name} OBJECT ${sources})
  target_compile_definitions(${name} PRIVATE LF_ISA=${isa})
  target_compile_options(${name} PRIVATE ${ARGN})
  target_include_directories(${name} PRIVATE native)
  target_precompile_headers(${name} PRIVATE native/cpu/simd.h)
  set(KERNEL_OBJECTS ${KERNEL_OBJECTS} $<TARGET_OBJECTS:${name}> PARENT_SCOPE)
endfunction()

# Sets `result` to the flags, or to nothing when the compiler refuses them.
function(accepted_flags result)
  list(JOIN ARGN " " flags)
  check_cxx_compiler_flag("${flags}" ACCEPTS_${result})
  if(ACCEPTS_${result})
    set(${result} ${ARGN} PARENT_SCOPE)
  endif()
endfunction()

set(plain_flags "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  # Here they run on processors before AVX2 alone.
  set(plain_flags ${light_flags})
  if(MSVC)
    set(avx2_flags /arch:AVX2)
    set(avx512_flags /arch:AVX512)
    set(bf16_flags /arch:AVX512)
  else()
    accepted_flags(avx2_flags -mavx2 -mfma -mf16c)
    accepted_flags(avx512_flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
      -mprefer-vector-width=512)
    accepted_flags(bf16_flags ${avx512_flags} -mavx512bf16)
    accepted_flags(amx_flags ${bf16_flags} -mamx-tile -mamx-bf16 -mamx-int8)
  endif()
  if(avx2_flags)
    add_kernels(kernels_avx2 1 "${kernel_sources}" ${avx2_flags})
  endif()
  # All or nothing: the AVX-512 kernels call into the BF16 files.
  if(avx512_flags AND bf16_flags)
    add_kernels(kernels_avx512 2 "${kernel_sources}" ${avx512_flags})
    add_kernels(kernels_avx512bf16 2 "${bf16_sources}" ${bf16_flags})
    # Without them bf16 products take pairs.
    if(amx_flags)
      add_kernels(kernels_amx 2 "${amx_sources}" ${amx_flags})
    endif()
  endif()
endif()
add_kernels(kernels_plain 0 "${kernel_sources}" ${plain_flags})
