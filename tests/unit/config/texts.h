// What the tests of the config room share: parsing of a text that must be right, or must be wrong in one way.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "qtrp/config/config.h"

namespace qtrp::config {

inline std::string joined(const std::vector<Error>& errors) {
  std::string out;
  for (const Error& error : errors) out += (out.empty() ? "" : "\n") + error.message;
  return out;
}

/// The parsed file; a failed test and an empty configuration if it has mistakes.
inline ServerConfig server(std::string_view yaml) {
  auto loaded = parse_server(yaml, "server.yaml");
  if (!loaded) ADD_FAILURE() << joined(loaded.error());
  return loaded ? *loaded : ServerConfig{};
}
inline ClientConfig client(std::string_view yaml) {
  auto loaded = parse_client(yaml, "client.yaml");
  if (!loaded) ADD_FAILURE() << joined(loaded.error());
  return loaded ? *loaded : ClientConfig{};
}
/// Every mistake, one a line; empty if there is none.
inline std::string server_mistakes(std::string_view yaml) {
  const auto loaded = parse_server(yaml, "server.yaml");
  return loaded ? std::string() : joined(loaded.error());
}
inline std::string client_mistakes(std::string_view yaml) {
  const auto loaded = parse_client(yaml, "client.yaml");
  return loaded ? std::string() : joined(loaded.error());
}

/// The least that loads, for one more line behind it.
inline const std::string least_server = "auth: {tokens: [a-token-of-16-or-more]}\n";
inline const std::string least_client =
    "server: vps.example.com:6000\ntoken: a-token-of-16-or-more\nproxies: [{remote_port: 2222, local_addr: "
    "127.0.0.1:22}]\n";

}  // namespace qtrp::config
