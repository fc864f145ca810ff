# What every target of the project shares: warnings, sanitizers, ccache, generated FlatBuffers headers.

find_program(RINGLAUNCH_CCACHE ccache)
if(RINGLAUNCH_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${RINGLAUNCH_CCACHE})
endif()

find_program(RINGLAUNCH_FLATC flatc REQUIRED)
find_path(RINGLAUNCH_FLATBUFFERS_INCLUDE flatbuffers/flatbuffers.h REQUIRED)

add_library(ringlaunch_options INTERFACE)
target_compile_options(ringlaunch_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                                    -Werror=return-type)
target_include_directories(ringlaunch_options INTERFACE ${PROJECT_SOURCE_DIR})
if(RINGLAUNCH_SANITIZE)
  target_compile_options(ringlaunch_options INTERFACE -fsanitize=${RINGLAUNCH_SANITIZE} -fno-omit-frame-pointer
                                                      -fno-sanitize-recover=all)
  target_link_options(ringlaunch_options INTERFACE -fsanitize=${RINGLAUNCH_SANITIZE})
endif()

# ringlaunch_generate(<target> <schema.fbs>...): headers beside the build, on the target's include path.
function(ringlaunch_generate target)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/generated)
  set(headers)
  foreach(schema ${ARGN})
    get_filename_component(stem ${schema} NAME_WE)
    set(header ${out}/${stem}_generated.h)
    add_custom_command(
      OUTPUT ${header}
      COMMAND ${RINGLAUNCH_FLATC} --cpp --scoped-enums --gen-mutable -I ${PROJECT_SOURCE_DIR}/schema -o ${out}
              ${CMAKE_CURRENT_SOURCE_DIR}/${schema}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${schema}
      VERBATIM)
    list(APPEND headers ${header})
  endforeach()
  add_custom_target(${target}_generated DEPENDS ${headers})
  add_dependencies(${target} ${target}_generated)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    target_include_directories(${target} SYSTEM INTERFACE ${out} ${RINGLAUNCH_FLATBUFFERS_INCLUDE})
  else()
    target_include_directories(${target} SYSTEM PUBLIC ${out} ${RINGLAUNCH_FLATBUFFERS_INCLUDE})
  endif()
endfunction()
