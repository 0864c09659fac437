// The two network namespaces of a test link, each with loopback and one TUN device: made here, gone with the object.
#pragma once

#include <array>
#include <string>

#include "qtrp/base/error.h"

namespace qtrp::testlink {

struct Side {
  std::string name;      ///< of the namespace: "qtrp-<pid>-a", "qtrp-<pid>-b"
  std::string address;   ///< 10.77.0.1 (a), 10.77.0.2 (b)
  std::string address6;  ///< fd77::1, fd77::2
  int tun = -1;          ///< non-blocking; one IP packet a read or write
};

class Namespaces {
 public:
  /// Needs root. First removes what killed test links left behind.
  static Result<Namespaces> create(unsigned mtu);
  Namespaces(Namespaces&& other) noexcept;
  Namespaces& operator=(Namespaces&&) = delete;
  ~Namespaces();

  std::array<Side, 2> sides;

 private:
  Namespaces() = default;
  bool owner_ = true;
};

}  // namespace qtrp::testlink
