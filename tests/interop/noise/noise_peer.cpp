// One end of a chacha20 tunnel on stdin and stdout, for noise_interop.py: it sends every plaintext that it opens back
// as records of its own. Usage: noise_peer client|server SECRET. Standard error gets the channel binding in hexadecimal
// once established, or the error. At the end of its input it says goodbye. Exit code 0; 3 after an error of the record
// layer.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "qtrp/crypto/noise.h"
#include "qtrp/identity/identity.h"

namespace {

using qtrp::Bytes;
using qtrp::Error;
using qtrp::MutableBytes;

bool write_all(Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

int report(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return 3;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const auto key = qtrp::crypto::derive_noise_key(arguments[2]);
  const auto layer =
      std::string(arguments[1]) == "client"
          ? qtrp::crypto::make_noise_client(key)
          : qtrp::crypto::make_noise_server(std::make_shared<const std::vector<qtrp::crypto::NoiseKey>>(1, key));
  if (const auto started = layer->start(); !started) return report(started.error());

  std::vector<std::byte> wire(2 * 65537);
  std::size_t filled = 0;
  bool bound = false;
  for (;;) {
    if (!write_all(layer->output())) return 1;
    layer->clear_output();
    if (layer->established() && !bound) {
      std::fprintf(stderr, "%s\n", qtrp::identity::to_hex(layer->channel_binding()).c_str());
      bound = true;
    }
    const ssize_t got = ::read(STDIN_FILENO, wire.data() + filled, wire.size() - filled);
    if (got < 0) return 1;
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    std::size_t used = 0;
    for (;;) {
      const auto opened = layer->open(MutableBytes(wire).subspan(used, filled - used));
      if (!opened) return report(opened.error());
      used += opened->consumed;
      if (opened->consumed == 0 && opened->plain.empty()) break;
      if (opened->plain.empty()) continue;
      const auto rooms = layer->rooms();
      std::vector<std::byte> record(rooms.head + opened->plain.size() + rooms.tail);
      std::ranges::copy(opened->plain, record.begin() + static_cast<std::ptrdiff_t>(rooms.head));
      const auto sealed = layer->seal(record);
      if (!sealed) return report(sealed.error());
      if (!write_all(layer->output()) || !write_all(*sealed)) return 1;
      layer->clear_output();
    }
    std::ranges::copy(MutableBytes(wire).subspan(used, filled - used), wire.begin());
    filled -= used;
  }
  layer->close();
  return write_all(layer->output()) ? 0 : 1;
}
