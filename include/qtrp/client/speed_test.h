// Measures what the way between client and server carries in each direction, through a tunnel of its own, so that
// brutal.target_mbps need not be guessed.
#pragma once

#include <functional>
#include <string>

#include "qtrp/base/error.h"
#include "qtrp/base/time.h"
#include "qtrp/config/config.h"

namespace qtrp::client {

struct Speed {
  double download_mbps = 0;  ///< server to client, 10^6 bits of payload a second
  double upload_mbps = 0;    ///< client to server
};

struct SpeedTest {
  Duration warm_up = std::chrono::seconds(3);   ///< not counted: the congestion controller is still searching
  Duration measured = std::chrono::seconds(7);  ///< of each direction
};

/// Dials as `config` says, but as a client of its own (running ones keep their ports), without Brutal and with one
/// tunnel. Blocks for both directions. Fails with kind timeout when the server gives no stream within 15 s (why is in
/// the log), with closed when the tunnel is lost on the way.
Result<Speed> measure_speed(const config::ClientConfig& config, const SpeedTest& test);

/// What to write into which file: nine tenths of what was found, whole Mbit/s from 10 on.
std::string suggest(const Speed& speed);

}  // namespace qtrp::client
