#include "qtrp/stats/version.h"

namespace qtrp {

std::string_view version() {
  return QTRP_VERSION;
}

}  // namespace qtrp
