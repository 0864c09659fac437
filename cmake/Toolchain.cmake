# Compiler set-up shared by every target through the interface library qtrp_options.
find_program(QTRP_CCACHE ccache)
if(QTRP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${QTRP_CCACHE})
  # A precompiled header would otherwise make every compilation uncacheable (ccache manual, "Precompiled headers").
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} ${QTRP_CCACHE})
  set(CMAKE_PCH_INSTANTIATE_TEMPLATES OFF)
endif()

add_library(qtrp_options INTERFACE)
target_compile_features(qtrp_options INTERFACE cxx_std_23)
target_compile_options(qtrp_options INTERFACE -Wall -Wextra -Wconversion -Wshadow -Wnon-virtual-dtor -fno-strict-aliasing)
target_compile_definitions(qtrp_options INTERFACE SPDLOG_FMT_EXTERNAL _GNU_SOURCE)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(qtrp_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  if(QTRP_SANITIZE)
    # False alarms of GCC's flow analysis once the sanitizers' checks are in between.
    target_compile_options(qtrp_options INTERFACE -Wno-maybe-uninitialized -Wno-array-bounds)
  endif()
endif()
if(QTRP_WERROR)
  target_compile_options(qtrp_options INTERFACE -Werror)
endif()
if(QTRP_SANITIZE)
  target_compile_options(qtrp_options INTERFACE -fsanitize=${QTRP_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(qtrp_options INTERFACE -fsanitize=${QTRP_SANITIZE})
  if(QTRP_SANITIZE MATCHES "thread")
    # ThreadSanitizer doesn't know the fences that Asio puts around handlers (its queue has a mutex anyway), and GCC warns of them.
    target_compile_definitions(qtrp_options INTERFACE BOOST_ASIO_DISABLE_FENCED_BLOCK)
  endif()
  if(QTRP_SANITIZE MATCHES "undefined")
    # Without vptr: its check opens a pipe, and takes its failure for a bad object where a test has used up the descriptors.
    target_compile_options(qtrp_options INTERFACE -fno-sanitize-recover=undefined -fno-sanitize=vptr)
  endif()
else()
  target_compile_definitions(qtrp_options INTERFACE $<$<CONFIG:Release,RelWithDebInfo>:_FORTIFY_SOURCE=2>)
  target_compile_options(qtrp_options INTERFACE -fstack-protector-strong)
endif()

if(QTRP_COVERAGE)
  # Counters are written atomically: loops run in threads.
  target_compile_options(qtrp_options INTERFACE --coverage -fprofile-update=atomic)
  target_link_options(qtrp_options INTERFACE --coverage)
endif()

find_program(QTRP_MOLD mold)
if(QTRP_MOLD)
  target_link_options(qtrp_options INTERFACE -fuse-ld=mold)
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
