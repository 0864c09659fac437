#include "qtrp/protocol/messages.h"

#include <fmt/format.h>

#include <cstring>
#include <msgpack.hpp>

namespace qtrp::protocol {
namespace {

using Packer = msgpack::packer<msgpack::sbuffer>;

// --- writing: one map a message, "t" is its type ---

void key(Packer& p, std::string_view name) {
  p.pack_str(static_cast<std::uint32_t>(name.size()));
  p.pack_str_body(name.data(), static_cast<std::uint32_t>(name.size()));
}
void put(Packer& p, std::string_view name, std::string_view text) {
  key(p, name);
  key(p, text);
}
void put(Packer& p, std::string_view name, Bytes bytes) {
  key(p, name);
  p.pack_bin(static_cast<std::uint32_t>(bytes.size()));
  p.pack_bin_body(reinterpret_cast<const char*>(bytes.data()), static_cast<std::uint32_t>(bytes.size()));
}
void put(Packer& p, std::string_view name, std::uint64_t number) {
  key(p, name);
  p.pack_uint64(number);
}
void put(Packer& p, std::string_view name, std::int64_t number) {
  key(p, name);
  p.pack_int64(number);
}
void put(Packer& p, std::string_view name, bool value) {
  key(p, name);
  value ? p.pack_true() : p.pack_false();
}
void put(Packer& p, std::string_view name, const std::vector<std::string>& list) {
  key(p, name);
  p.pack_array(static_cast<std::uint32_t>(list.size()));
  for (const std::string& item : list) key(p, item);
}

void begin(Packer& p, std::uint32_t keys, std::string_view type) {
  p.pack_map(keys + 1);
  put(p, "t", type);
}

void write(Packer& p, const Auth& m) {
  begin(p, 2, "auth");
  put(p, "body", m.body);
  put(p, "hmac", m.hmac);
}
void write(Packer& p, const AuthResp& m) {
  begin(p, 2, "auth_resp");
  put(p, "body", m.body);
  put(p, "hmac", m.hmac);
}
void write(Packer& p, const NewProxy& m) {
  begin(p, 5, "new_proxy");
  put(p, "id", std::uint64_t{m.id});
  put(p, "name", m.name);
  put(p, "type", m.type);
  put(p, "bind", m.bind);
  put(p, "port", std::uint64_t{m.port});
}
void write(Packer& p, const ProxyResp& m) {
  begin(p, 4, "proxy_resp");
  put(p, "id", std::uint64_t{m.id});
  put(p, "code", m.code);
  put(p, "text", m.text);
  put(p, "port", std::uint64_t{m.port});
}
void write(Packer& p, const NewConn& m) {
  begin(p, 4, "new_conn");
  put(p, "proxy", std::uint64_t{m.proxy});
  put(p, "conn", m.connection);
  put(p, "user", m.user);
  put(p, "dest", m.destination);
}
void write(Packer& p, const CloseProxy& m) {
  begin(p, 1, "close_proxy");
  put(p, "id", std::uint64_t{m.id});
}
void write(Packer& p, const Ping& m) {
  begin(p, 1, "ping");
  put(p, "time", m.timestamp);
}
void write(Packer& p, const Pong& m) {
  begin(p, 1, "pong");
  put(p, "time", m.timestamp);
}
void write(Packer& p, const Goodbye& m) {
  begin(p, 1, "goodbye");
  put(p, "reason", m.reason);
}
void write(Packer& p, const ErrorMessage& m) {
  begin(p, 1, "error");
  put(p, "text", m.text);
}
void write(Packer& p, const Unknown& m) {
  begin(p, 0, m.type);
}

// --- reading ---

constexpr std::size_t kMostText = 1024;    // bytes of one string
constexpr std::size_t kMostElements = 64;  // of one array or map
constexpr std::size_t kMostDepth = 4;

const msgpack::unpack_limit kLimits(kMostElements, kMostElements, kMostText, kMaxMessage, 0, kMostDepth);

// A decoded map. Getters return false where the key is missing or of another kind; the first failure is remembered.
class Map {
 public:
  explicit Map(const msgpack::object& object) : map_(object.via.map) {}

  bool get(std::string_view name, std::string& out) {
    const auto* v = find(name);
    if (!v || v->type != msgpack::type::STR) return bad(name);
    out.assign(v->via.str.ptr, v->via.str.size);
    return true;
  }
  template <std::size_t N>
  bool get(std::string_view name, std::array<std::byte, N>& out) {
    const auto* v = find(name);
    if (!v || v->type != msgpack::type::BIN || v->via.bin.size != N) return bad(name);
    std::memcpy(out.data(), v->via.bin.ptr, N);
    return true;
  }
  bool get(std::string_view name, std::vector<std::byte>& out) {
    const auto* v = find(name);
    if (!v || v->type != msgpack::type::BIN) return bad(name);
    const auto* data = reinterpret_cast<const std::byte*>(v->via.bin.ptr);
    out.assign(data, data + v->via.bin.size);
    return true;
  }
  template <typename T>
    requires std::is_unsigned_v<T> && (!std::is_same_v<T, bool>)
  bool get(std::string_view name, T& out) {
    const auto* v = find(name);
    if (!v || v->type != msgpack::type::POSITIVE_INTEGER || v->via.u64 > std::numeric_limits<T>::max())
      return bad(name);
    out = static_cast<T>(v->via.u64);
    return true;
  }
  bool get(std::string_view name, std::int64_t& out) {
    const auto* v = find(name);
    if (v && v->type == msgpack::type::POSITIVE_INTEGER && v->via.u64 <= static_cast<std::uint64_t>(INT64_MAX)) {
      out = static_cast<std::int64_t>(v->via.u64);
      return true;
    }
    if (!v || v->type != msgpack::type::NEGATIVE_INTEGER) return bad(name);
    out = v->via.i64;
    return true;
  }
  bool get(std::string_view name, bool& out) {
    const auto* v = find(name);
    if (!v || v->type != msgpack::type::BOOLEAN) return bad(name);
    out = v->via.boolean;
    return true;
  }
  bool get(std::string_view name, std::vector<std::string>& out) {
    const auto* v = find(name);
    if (!v || v->type != msgpack::type::ARRAY) return bad(name);
    for (std::uint32_t i = 0; i < v->via.array.size; ++i) {
      const auto& item = v->via.array.ptr[i];
      if (item.type != msgpack::type::STR) return bad(name);
      out.emplace_back(item.via.str.ptr, item.via.str.size);
    }
    return true;
  }
  const std::string& first_bad() const { return bad_; }

 private:
  const msgpack::object* find(std::string_view name) const {
    for (std::uint32_t i = 0; i < map_.size; ++i) {
      const auto& k = map_.ptr[i].key;
      if (k.type == msgpack::type::STR && std::string_view(k.via.str.ptr, k.via.str.size) == name)
        return &map_.ptr[i].val;
    }
    return nullptr;
  }
  bool bad(std::string_view name) {
    if (bad_.empty()) bad_ = name;
    return false;
  }
  const msgpack::object_map& map_;
  std::string bad_;
};

bool read(Map& m, Auth& o) {
  return m.get("body", o.body) && m.get("hmac", o.hmac);
}
bool read(Map& m, AuthResp& o) {
  return m.get("body", o.body) && m.get("hmac", o.hmac);
}
bool read(Map& m, NewProxy& o) {
  return m.get("id", o.id) && m.get("name", o.name) && m.get("type", o.type) && m.get("bind", o.bind) &&
         m.get("port", o.port);
}
bool read(Map& m, ProxyResp& o) {
  return m.get("id", o.id) && m.get("code", o.code) && m.get("text", o.text) && m.get("port", o.port);
}
bool read(Map& m, NewConn& o) {
  return m.get("proxy", o.proxy) && m.get("conn", o.connection) && m.get("user", o.user) &&
         m.get("dest", o.destination);
}
bool read(Map& m, CloseProxy& o) {
  return m.get("id", o.id);
}
bool read(Map& m, Ping& o) {
  return m.get("time", o.timestamp);
}
bool read(Map& m, Pong& o) {
  return m.get("time", o.timestamp);
}
bool read(Map& m, Goodbye& o) {
  return m.get("reason", o.reason);
}
bool read(Map& m, ErrorMessage& o) {
  return m.get("text", o.text);
}
bool read(Map& m, AuthBody& o) {
  return m.get("version", o.version) && m.get("instance", o.instance) && m.get("run", o.run) &&
         m.get("tunnel", o.tunnel) && m.get("name", o.name) && m.get("time", o.timestamp) && m.get("nonce", o.nonce) &&
         m.get("features", o.features);
}
bool read(Map& m, AuthRespBody& o) {
  return m.get("ok", o.ok) && m.get("error", o.error) && m.get("session", o.session) && m.get("nonce", o.nonce) &&
         m.get("time", o.time) && m.get("features", o.features);
}

// Runs `use` on the one map that `bytes` must be.
template <typename F>
auto with_map(Bytes bytes, F use) -> decltype(use(std::declval<Map&>())) {
  try {
    std::size_t used = 0;
    const msgpack::object_handle handle =
        msgpack::unpack(reinterpret_cast<const char*>(bytes.data()), bytes.size(), used, nullptr, nullptr, kLimits);
    if (used != bytes.size()) return fail(ErrorKind::protocol, "control message: bytes after its end");
    if (handle.get().type != msgpack::type::MAP) return fail(ErrorKind::protocol, "control message: not a map");
    Map map(handle.get());
    return use(map);
  } catch (const std::exception& e) {  // malformed, truncated, or over a limit
    return fail(ErrorKind::protocol, fmt::format("control message: {}", e.what()));
  }
}

std::unexpected<Error> missing(std::string_view type, const Map& map) {
  return fail(ErrorKind::protocol,
              fmt::format("control message '{}': '{}' is missing or of the wrong kind", type, map.first_bad()));
}

template <typename T>
Result<Message> read_as(std::string_view type, Map& map) {
  T message;
  if (!read(map, message)) return missing(type, map);
  return Message(std::move(message));
}

template <typename T>
Result<T> read_body(std::string_view type, Bytes bytes) {
  return with_map(bytes, [&](Map& map) -> Result<T> {
    T body;
    if (!read(map, body)) return missing(type, map);
    return body;
  });
}

std::vector<std::byte> bytes_of(const msgpack::sbuffer& buffer) {
  const auto* data = reinterpret_cast<const std::byte*>(buffer.data());
  return {data, data + buffer.size()};
}

}  // namespace

std::vector<std::byte> encode(const Message& message) {
  msgpack::sbuffer buffer;
  buffer.write("\0\0\0\0", 4);
  Packer packer(buffer);
  std::visit([&](const auto& m) { write(packer, m); }, message);
  std::vector<std::byte> out = bytes_of(buffer);
  store_be<std::uint32_t>(out.data(), static_cast<std::uint32_t>(out.size() - 4));
  return out;
}

Result<Message> decode(Bytes payload) {
  return with_map(payload, [](Map& map) -> Result<Message> {
    std::string type;
    if (!map.get("t", type)) return fail(ErrorKind::protocol, "control message without a type");
    if (type == "auth") return read_as<Auth>(type, map);
    if (type == "auth_resp") return read_as<AuthResp>(type, map);
    if (type == "new_proxy") return read_as<NewProxy>(type, map);
    if (type == "proxy_resp") return read_as<ProxyResp>(type, map);
    if (type == "new_conn") return read_as<NewConn>(type, map);
    if (type == "close_proxy") return read_as<CloseProxy>(type, map);
    if (type == "ping") return read_as<Ping>(type, map);
    if (type == "pong") return read_as<Pong>(type, map);
    if (type == "goodbye") return read_as<Goodbye>(type, map);
    if (type == "error") return read_as<ErrorMessage>(type, map);
    return Message(Unknown{type});
  });
}

std::vector<std::byte> encode_body(const AuthBody& body) {
  msgpack::sbuffer buffer;
  Packer p(buffer);
  p.pack_map(8);
  put(p, "version", std::uint64_t{body.version});
  put(p, "instance", body.instance);
  put(p, "run", body.run);
  put(p, "tunnel", std::uint64_t{body.tunnel});
  put(p, "name", body.name);
  put(p, "time", body.timestamp);
  put(p, "nonce", body.nonce);
  put(p, "features", body.features);
  return bytes_of(buffer);
}

std::vector<std::byte> encode_body(const AuthRespBody& body) {
  msgpack::sbuffer buffer;
  Packer p(buffer);
  p.pack_map(6);
  put(p, "ok", body.ok);
  put(p, "error", body.error);
  put(p, "session", body.session);
  put(p, "nonce", body.nonce);
  put(p, "time", body.time);
  put(p, "features", body.features);
  return bytes_of(buffer);
}

Result<AuthBody> decode_auth_body(Bytes bytes) {
  return read_body<AuthBody>("auth body", bytes);
}
Result<AuthRespBody> decode_auth_resp_body(Bytes bytes) {
  return read_body<AuthRespBody>("auth_resp body", bytes);
}

Result<std::optional<Message>> MessageReader::next(Bytes& input) {
  const auto take = [&](std::size_t upto) {
    const std::size_t n = std::min(upto - buffer_.size(), input.size());
    buffer_.insert(buffer_.end(), input.begin(), input.begin() + static_cast<std::ptrdiff_t>(n));
    input = input.subspan(n);
    return buffer_.size() == upto;
  };
  if (buffer_.size() < 4 && !take(4)) return std::nullopt;
  const std::size_t length = load_be<std::uint32_t>(buffer_.data());
  if (length == 0 || length > kMaxMessage) {
    return fail(ErrorKind::protocol,
                fmt::format("control message of {} bytes, at most {} are allowed", length, kMaxMessage));
  }
  if (!take(4 + length)) return std::nullopt;
  auto message = decode(Bytes(buffer_).subspan(4));
  std::vector<std::byte>().swap(buffer_);
  if (!message) return std::unexpected(message.error());
  return std::move(*message);
}

}  // namespace qtrp::protocol
