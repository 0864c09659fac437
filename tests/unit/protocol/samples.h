// One message of each type, as a value and as the keys that docs/protocol.md gives it.
#pragma once

#include "packed.h"
#include "qtrp/protocol/messages.h"

namespace qtrp::protocol::test {

struct Sample {
  std::string type;
  Message message;
  Keys keys;  ///< "t" is the first
};

template <std::size_t N>
std::array<std::byte, N> counting(std::uint8_t from) {
  std::array<std::byte, N> out;
  for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<std::byte>(from + i);
  return out;
}
template <std::size_t N>
Buffer buffer(const std::array<std::byte, N>& bytes) {
  return {bytes.begin(), bytes.end()};
}

inline AuthBody sample_auth_body() {
  return {.version = 1,
          .instance = counting<16>(0x10),
          .run = counting<16>(0x20),
          .tunnel = 2,
          .name = "pi",
          .timestamp = 1'700'000'000'000,
          .nonce = counting<32>(0x40),
          .features = {"one", "two"}};
}
inline AuthRespBody sample_auth_resp_body() {
  return {.ok = true,
          .error = "",
          .session = counting<16>(0x60),
          .nonce = counting<32>(0x80),
          .time = 1'700'000'000'123,
          .features = {}};
}

inline std::vector<Sample> samples() {
  const Mac mac = counting<32>(0xC0);
  const Buffer inner = raw("the body");
  return {
      {"auth", Auth{inner, mac}, {{"t", str("auth")}, {"body", bin(inner)}, {"hmac", bin(buffer(mac))}}},
      {"auth_resp", AuthResp{inner, mac}, {{"t", str("auth_resp")}, {"body", bin(inner)}, {"hmac", bin(buffer(mac))}}},
      {"new_proxy",
       NewProxy{.id = 7, .name = "web", .type = "tcp", .bind = "::1", .port = 8080},
       {{"t", str("new_proxy")},
        {"id", u64(7)},
        {"name", str("web")},
        {"type", str("tcp")},
        {"bind", str("::1")},
        {"port", u64(8080)}}},
      {"proxy_resp",
       ProxyResp{.id = 7, .code = "port_in_use", .text = "taken", .port = 0},
       {{"t", str("proxy_resp")},
        {"id", u64(7)},
        {"code", str("port_in_use")},
        {"text", str("taken")},
        {"port", u64(0)}}},
      {"new_conn",
       NewConn{.proxy = 7, .connection = 1ULL << 40, .user = "203.0.113.9:51234", .destination = "198.51.100.1:8080"},
       {{"t", str("new_conn")},
        {"proxy", u64(7)},
        {"conn", u64(1ULL << 40)},
        {"user", str("203.0.113.9:51234")},
        {"dest", str("198.51.100.1:8080")}}},
      {"close_proxy", CloseProxy{7}, {{"t", str("close_proxy")}, {"id", u64(7)}}},
      {"ping", Ping{-5}, {{"t", str("ping")}, {"time", i64(-5)}}},
      {"pong", Pong{1'700'000'000'000}, {{"t", str("pong")}, {"time", u64(1'700'000'000'000)}}},
      {"goodbye", Goodbye{"restart"}, {{"t", str("goodbye")}, {"reason", str("restart")}}},
      {"error", ErrorMessage{"what?"}, {{"t", str("error")}, {"text", str("what?")}}},
  };
}

}  // namespace qtrp::protocol::test
