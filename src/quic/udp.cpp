// recvmmsg and sendmmsg with the ancillary data that QUIC wants. References: udp(7), ip(7), ipv6(7).
#include "udp.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace qtrp::quic {
namespace {

constexpr std::size_t kBatch = 16;          // messages a recvmmsg
constexpr std::size_t kMessage = 64 << 10;  // bytes of one, GRO fills it
constexpr int kBatchesPerTurn = 16;
constexpr std::size_t kControl = 128;  // bytes of ancillary data a message

/// Receive memory of the thread: handled before the next read.
std::byte* receive_memory() {
  thread_local std::unique_ptr<std::byte[]> memory(new std::byte[kBatch * kMessage]);
  return memory.get();
}

void set_int(int fd, int level, int option, int value) {
  (void)::setsockopt(fd, level, option, &value, sizeof value);
}

void set_options(int fd, int family, int buffer) {
  if (buffer > 0) {
    // FORCE goes beyond net.core.rmem_max and wmem_max but needs CAP_NET_ADMIN.
    if (::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0)
      set_int(fd, SOL_SOCKET, SO_RCVBUF, buffer);
    if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) != 0)
      set_int(fd, SOL_SOCKET, SO_SNDBUF, buffer);
  }
  // A dual-stack socket gets IPv4's ancillary data too. PROBE: never fragment, and leave the path's MTU to us.
  set_int(fd, IPPROTO_IP, IP_RECVTOS, 1);
  set_int(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  if (family == AF_INET6) {
    set_int(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    set_int(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    set_int(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
  } else {
    set_int(fd, IPPROTO_IP, IP_PKTINFO, 1);
  }
  set_int(fd, SOL_UDP, UDP_GRO, 1);
}

Result<io::Fd> make_socket(int family) {
  io::Fd fd(::socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("UDP socket", errno);
  return fd;
}

bool is_mapped(const io::Endpoint& endpoint) {
  return endpoint.family() == AF_INET6 &&
         IN6_IS_ADDR_V4MAPPED(&reinterpret_cast<const sockaddr_in6*>(endpoint.data())->sin6_addr);
}

/// Writes one ancillary item; `used` grows.
template <typename T>
void put(msghdr& message, std::size_t& used, int level, int type, const T& value) {
  auto* header = reinterpret_cast<cmsghdr*>(static_cast<std::byte*>(message.msg_control) + used);
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(sizeof value);
  std::memcpy(CMSG_DATA(header), &value, sizeof value);
  used += CMSG_SPACE(sizeof value);
}

/// The ancillary data of a departure: source address, ECN, segment size.
std::size_t put_control(msghdr& message, const Departure& departure, bool with_source, bool segmented) {
  std::size_t used = 0;
  bool v4 = departure.path.remote.family() == AF_INET || is_mapped(departure.path.remote);
  if (with_source) {
    if (departure.path.local.family() == AF_INET) {
      in_pktinfo info{};
      info.ipi_spec_dst = reinterpret_cast<const sockaddr_in*>(departure.path.local.data())->sin_addr;
      put(message, used, IPPROTO_IP, IP_PKTINFO, info);
    } else {
      in6_pktinfo info{};
      info.ipi6_addr = reinterpret_cast<const sockaddr_in6*>(departure.path.local.data())->sin6_addr;
      put(message, used, IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
  }
  if (departure.ecn != 0) {
    int tos = departure.ecn;
    put(message, used, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, tos);
  }
  if (segmented) put(message, used, SOL_UDP, UDP_SEGMENT, static_cast<std::uint16_t>(departure.segment));
  return used;
}

}  // namespace

Result<io::Fd> UdpSocket::bind(const io::Endpoint& at, int buffer, bool share_port) {
  auto fd = make_socket(at.family());
  if (!fd) return fd;
  if (at.family() == AF_INET6) set_int(fd->get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (share_port) set_int(fd->get(), SOL_SOCKET, SO_REUSEPORT, 1);
  set_options(fd->get(), at.family(), buffer);
  if (::bind(fd->get(), at.data(), at.size()) != 0)
    return fail_errno(fmt::format("UDP bind to {}", at.to_string()), errno);
  return fd;
}

Result<io::Fd> UdpSocket::connect(const io::Endpoint& peer, int buffer) {
  auto fd = make_socket(peer.family());
  if (!fd) return fd;
  set_options(fd->get(), peer.family(), buffer);
  if (::connect(fd->get(), peer.data(), peer.size()) != 0)
    return fail_errno(fmt::format("UDP to {}", peer.to_string()), errno);
  return fd;
}

std::size_t UdpSocket::largest_payload(const io::Endpoint& peer) {
  constexpr std::size_t kLeast = 1200, kMost = 65507;
  auto fd = make_socket(peer.family());
  if (!fd || ::connect(fd->get(), peer.data(), peer.size()) != 0) return kLeast;
  int mtu = 0;
  socklen_t size = sizeof mtu;
  bool v6 = peer.family() == AF_INET6;
  if (::getsockopt(fd->get(), v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU : IP_MTU, &mtu, &size) != 0) return kLeast;
  std::size_t headers = v6 && !is_mapped(peer) ? 48 : 28;
  return std::clamp(static_cast<std::size_t>(std::max(mtu, 1300)) - headers, kLeast, kMost);
}

UdpSocket::UdpSocket(io::Loop& loop, io::Fd fd, Owner& owner)
    : loop_(loop), fd_(std::move(fd)), owner_(owner), again_(loop) {
  socklen_t size = io::Endpoint::capacity();
  if (::getsockname(fd_.get(), local_.data(), &size) == 0) local_.set_size(size);
  sockaddr_storage peer;
  size = sizeof peer;
  connected_ = ::getpeername(fd_.get(), reinterpret_cast<sockaddr*>(&peer), &size) == 0;
  wildcard_ = local_.family() == AF_INET
                  ? reinterpret_cast<const sockaddr_in*>(local_.data())->sin_addr.s_addr == INADDR_ANY
                  : IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(local_.data())->sin6_addr);
  watch_ = loop_.watch(fd_.get(), *this);
  watch_->arm_read();
}

UdpSocket::~UdpSocket() {
  watch_.reset();
}

void UdpSocket::on_ready(io::Readiness readiness) {
  if (readiness.writable) owner_.on_writable(*this);
  if (readiness.readable || readiness.error) read_some();
}

void UdpSocket::read_some() {
  std::array<mmsghdr, kBatch> messages;
  std::array<iovec, kBatch> pieces;
  std::array<io::Endpoint, kBatch> peers;
  alignas(cmsghdr) std::array<std::array<std::byte, kControl>, kBatch> controls;
  std::byte* memory = receive_memory();
  int error = 0;
  bool drained = false;
  for (int batch = 0; batch < kBatchesPerTurn && !drained; ++batch) {
    for (std::size_t i = 0; i < kBatch; ++i) {
      pieces[i] = {memory + i * kMessage, kMessage};
      messages[i] = {};
      msghdr& header = messages[i].msg_hdr;
      header.msg_name = peers[i].data();
      header.msg_namelen = io::Endpoint::capacity();
      header.msg_iov = &pieces[i];
      header.msg_iovlen = 1;
      header.msg_control = controls[i].data();
      header.msg_controllen = kControl;
    }
    int n = ::recvmmsg(fd_.get(), messages.data(), kBatch, MSG_DONTWAIT, nullptr);
    if (n < 0) {
      if (errno == EINTR) continue;
      drained = errno == EAGAIN || errno == EWOULDBLOCK;
      if (!drained) error = errno;  // an ICMP error of an earlier datagram; it is taken off by this
      if (!drained) continue;
      break;
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      msghdr& header = messages[i].msg_hdr;
      if (header.msg_flags & MSG_TRUNC) continue;
      peers[i].set_size(header.msg_namelen);
      Received received{{local_, peers[i]}, 0, {}};
      std::size_t segment = messages[i].msg_len;
      for (cmsghdr* item = CMSG_FIRSTHDR(&header); item; item = CMSG_NXTHDR(&header, item)) {
        if (item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_TOS) {
          received.ecn = *CMSG_DATA(item) & 3;
        } else if (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_TCLASS) {
          int tclass;
          std::memcpy(&tclass, CMSG_DATA(item), sizeof tclass);
          received.ecn = static_cast<std::uint8_t>(tclass & 3);
        } else if (wildcard_ && item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_PKTINFO &&
                   local_.family() == AF_INET) {
          in_pktinfo info;
          std::memcpy(&info, CMSG_DATA(item), sizeof info);
          reinterpret_cast<sockaddr_in*>(received.path.local.data())->sin_addr = info.ipi_addr;
        } else if (wildcard_ && item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_PKTINFO) {
          in6_pktinfo info;
          std::memcpy(&info, CMSG_DATA(item), sizeof info);
          reinterpret_cast<sockaddr_in6*>(received.path.local.data())->sin6_addr = info.ipi6_addr;
        } else if (item->cmsg_level == SOL_UDP && item->cmsg_type == UDP_GRO) {
          int size;
          std::memcpy(&size, CMSG_DATA(item), sizeof size);
          if (size > 0) segment = static_cast<std::size_t>(size);
        }
      }
      Bytes all(memory + i * kMessage, messages[i].msg_len);
      while (!all.empty()) {
        received.bytes = all.first(std::min(segment, all.size()));
        all = all.subspan(received.bytes.size());
        owner_.on_datagram(*this, received);
      }
    }
  }
  owner_.on_batch_end(*this);
  if (drained) {
    watch_->arm_read();
  } else {
    again_.start(Duration::zero(), [this] { read_some(); });
  }
  if (error != 0) owner_.on_error(*this, error);
}

std::size_t UdpSocket::send(std::span<const Departure> departures) {
  constexpr std::size_t kMost = 32;
  std::array<mmsghdr, kMost> messages;
  std::array<iovec, kMost> pieces;
  alignas(cmsghdr) std::array<std::array<std::byte, kControl>, kMost> controls;
  std::size_t done = 0;
  int error = 0;
  while (done < departures.size()) {
    const Departure& next = departures[done];
    if (skip_ > 0 || (!gso_ && next.bytes.size() > next.segment)) {
      if (!send_one_by_one(next)) break;
      ++done;
      continue;
    }
    std::size_t count = 0;
    while (count < kMost && done + count < departures.size()) {
      const Departure& departure = departures[done + count];
      bool segmented = departure.bytes.size() > departure.segment;
      if (segmented && !gso_) break;
      pieces[count] = {const_cast<std::byte*>(departure.bytes.data()), departure.bytes.size()};
      messages[count] = {};
      msghdr& header = messages[count].msg_hdr;
      if (!connected_) {
        header.msg_name = const_cast<sockaddr*>(departure.path.remote.data());
        header.msg_namelen = departure.path.remote.size();
      }
      header.msg_iov = &pieces[count];
      header.msg_iovlen = 1;
      header.msg_control = controls[count].data();
      header.msg_controllen = put_control(header, departure, wildcard_ && !connected_, segmented);
      if (header.msg_controllen == 0) header.msg_control = nullptr;
      ++count;
    }
    int n = ::sendmmsg(fd_.get(), messages.data(), static_cast<unsigned>(count), MSG_DONTWAIT);
    if (n > 0) {
      done += static_cast<std::size_t>(n);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      watch_->arm_write();
      break;
    }
    bool segmented = next.bytes.size() > next.segment;
    if (segmented && (errno == EIO || errno == EINVAL || errno == EOPNOTSUPP)) {
      gso_ = false;  // the device or kernel can't: one datagram a message from now on
      continue;
    }
    // The datagram is lost, as any may be: too large (a probe of the path's MTU), no route just now, a filter, no
    // memory.
    if (errno != EMSGSIZE && errno != ENOBUFS && errno != EPERM) error = errno;
    ++done;
  }
  if (error != 0) owner_.on_error(*this, error);
  return done;
}

bool UdpSocket::send_one_by_one(const Departure& departure) {
  for (std::size_t at = skip_ * departure.segment; at < departure.bytes.size(); at += departure.segment, ++skip_) {
    Bytes bytes = departure.bytes.subspan(at, std::min(departure.segment, departure.bytes.size() - at));
    iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) std::array<std::byte, kControl> control;
    msghdr header{};
    if (!connected_) {
      header.msg_name = const_cast<sockaddr*>(departure.path.remote.data());
      header.msg_namelen = departure.path.remote.size();
    }
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = put_control(header, departure, wildcard_ && !connected_, false);
    if (header.msg_controllen == 0) header.msg_control = nullptr;
    if (::sendmsg(fd_.get(), &header, MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      watch_->arm_write();
      return false;
    }
  }
  skip_ = 0;
  return true;
}

}  // namespace qtrp::quic
