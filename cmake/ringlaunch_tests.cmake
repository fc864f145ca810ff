find_package(GTest REQUIRED)
include(GoogleTest)

# ringlaunch_test(<name> SOURCES ... LIBS ... [TIMEOUT s]): one gtest program, every test with a watchdog. Those with the
# longest start first (COST): a long one that starts last is waited for alone.
function(ringlaunch_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ringlaunch_options ${ARG_LIBS} GTest::gtest GTest::gmock GTest::gtest_main)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${ARG_TIMEOUT} COST ${ARG_TIMEOUT})
endfunction()
