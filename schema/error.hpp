// The exception of the cold paths: a numbered status and a text for people.
#pragma once

#include <stdexcept>
#include <string>

#include "status.hpp"  // beside this file: both are installed into include/ringlaunch/

namespace ringlaunch {

class Error : public std::runtime_error {
  public:
    Error(Status status, const std::string& text) : std::runtime_error(text), status_(status) {}
    Status status() const { return status_; }

  private:
    Status status_;
};

}  // namespace ringlaunch
