# Writes build_info.h: the version, a build stamp and why CUDA is absent. The stamp names the compiler and the content
# of the headers that cross the border to a backend plug-in, so that a plug-in left behind by an older build is refused.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS package.json)
file(READ package.json package_json)
string(REGEX MATCH "\"version\": *\"([^\"]+)\"" _ "${package_json}")
set(LF_VERSION "${CMAKE_MATCH_1}")

file(GLOB api_headers CONFIGURE_DEPENDS native/api/*.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${api_headers})
set(hashes "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} sanitize=${SANITIZE}")
foreach(header IN LISTS api_headers)
  file(SHA256 ${header} hash)
  string(APPEND hashes " ${hash}")
endforeach()
string(SHA256 stamp "${hashes}")
string(SUBSTRING ${stamp} 0 12 stamp)
set(LF_BUILD_STAMP "${LF_VERSION}-${stamp}")
set(LF_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")

string(REGEX REPLACE "([\\\"])" "\\\\\\1" LF_CUDA_SKIP_REASON "${CUDA_SKIP_REASON}")
set(BUILD_INFO_DIR ${CMAKE_CURRENT_BINARY_DIR}/generated)
configure_file(cmake/build_info.h.in ${BUILD_INFO_DIR}/build_info.h @ONLY)
