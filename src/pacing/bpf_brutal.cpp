#include "bpf_brutal.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/capability.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include "brutal_bpf.h"
#include "qtrp/base/log.h"

// The compiled brutal.bpf.c, whole.
asm(R"(
  .section .rodata
  .balign 16
  .globl qtrp_brutal_object, qtrp_brutal_object_end
qtrp_brutal_object:
  .incbin ")" QTRP_BPF_OBJECT R"("
qtrp_brutal_object_end:
  .byte 0
  .text
)");
extern "C" const char qtrp_brutal_object[], qtrp_brutal_object_end[];

namespace qtrp::pacing {
namespace {

constexpr std::uint32_t kLinkFlag = 1U << 13U;  // BPF_F_LINK, Linux 6.4
constexpr std::string_view kPrefix = "qtrp_";

struct FreeBtf {
  void operator()(btf* p) const { btf__free(p); }
};
struct CloseObject {
  void operator()(bpf_object* p) const { bpf_object__close(p); }
};
struct DestroyLink {
  void operator()(bpf_link* p) const { bpf_link__destroy(p); }
};

__attribute__((format(printf, 2, 0))) int to_debug_log(libbpf_print_level level, const char* format,
                                                       va_list arguments) {
  if (level == LIBBPF_DEBUG || !log::enabled(log::Level::debug)) return 0;
  std::array<char, 1024> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string_view text = line.data();
  while (text.ends_with('\n')) text.remove_suffix(1);
  log::debug("{}", text);
  return 0;
}

bool has_capability(const std::array<__user_cap_data_struct, 2>& held, unsigned capability) {
  return (held[capability / 32].effective >> (capability % 32) & 1U) != 0;
}

// The capabilities that are missing, as text.
std::string missing_capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> held{};
  if (syscall(SYS_capget, &header, held.data()) != 0) return "";
  const bool admin = has_capability(held, CAP_SYS_ADMIN);
  std::string missing;
  const auto need = [&](unsigned capability, std::string_view name, bool implied) {
    if (implied || has_capability(held, capability)) return;
    if (!missing.empty()) missing += ", ";
    missing += name;
  };
  need(CAP_BPF, "CAP_BPF", admin);
  need(CAP_PERFMON, "CAP_PERFMON", admin);
  need(CAP_NET_ADMIN, "CAP_NET_ADMIN", false);
  return missing;
}

// How many arguments tcp_congestion_ops::cong_control takes on this kernel; 0 if there is no such member.
unsigned control_arguments(const btf* kernel) {
  const int id = btf__find_by_name_kind(kernel, "tcp_congestion_ops", BTF_KIND_STRUCT);
  if (id < 0) return 0;
  const btf_type* ops = btf__type_by_id(kernel, static_cast<__u32>(id));
  const btf_member* members = btf_members(ops);
  for (unsigned i = 0; i < btf_vlen(ops); ++i) {
    if (std::string_view(btf__name_by_offset(kernel, members[i].name_off)) != "cong_control") continue;
    const btf_type* pointer = btf__type_by_id(kernel, members[i].type);
    const btf_type* function = btf__type_by_id(kernel, pointer->type);
    return btf_is_func_proto(function) ? btf_vlen(function) : 0;
  }
  return 0;
}

std::string base36(std::uint64_t value, std::size_t digits) {
  std::string text(digits, '0');
  for (auto it = text.rbegin(); it != text.rend(); ++it, value /= 36)
    *it = "0123456789abcdefghijklmnopqrstuvwxyz"[value % 36];
  return text;
}

// Two digits that tell PID namespaces apart: a process id means something only within its own.
std::string pid_namespace() {
  struct stat status{};
  return base36(stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0, 2);
}

// "qtrp_", five digits of the process id, two of its namespace, three at random: 15 characters.
std::string own_name() {
  std::uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) random = static_cast<std::uint64_t>(getpid());
  return std::string(kPrefix) + base36(static_cast<std::uint64_t>(getpid()), 5) + pid_namespace() + base36(random, 3);
}

// True if a name made by own_name() belongs to a process of our PID namespace that is no more.
bool is_leftover(std::string_view name) {
  if (name.size() != 15 || !name.starts_with(kPrefix) || name.substr(10, 2) != pid_namespace()) return false;
  const long pid = std::strtol(std::string(name.substr(5, 5)).c_str(), nullptr, 36);
  return pid > 0 && kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH;
}

// A registration without a link outlives its process: unregister those of the dead.
void remove_leftovers() {
  for (__u32 id = 0; bpf_map_get_next_id(id, &id) == 0;) {
    const int map = bpf_map_get_fd_by_id(id);
    if (map < 0) continue;
    bpf_map_info info{};
    __u32 size = sizeof info;
    if (bpf_obj_get_info_by_fd(map, &info, &size) == 0 && info.type == BPF_MAP_TYPE_STRUCT_OPS &&
        std::string_view(info.name).starts_with("qtrp_brutal")) {
      std::vector<char> value(info.value_size);
      const int key = 0;
      if (bpf_map_lookup_elem(map, &key, value.data()) == 0) {
        const std::string_view bytes(value.data(), value.size());
        const auto at = bytes.find(kPrefix);
        if (at != std::string_view::npos && is_leftover(bytes.substr(at, 15)) && bpf_map_delete_elem(map, &key) == 0) {
          log::info("removed the congestion controller {} of a process that is gone", bytes.substr(at, 15));
        }
      }
    }
    close(map);
  }
}

}  // namespace

struct BpfBrutal::State {
  std::unique_ptr<bpf_object, CloseObject> object;
  std::unique_ptr<bpf_link, DestroyLink> link;
  int targets = -1, states = -1;
};

BpfBrutal::~BpfBrutal() = default;

Result<std::unique_ptr<BpfBrutal>> BpfBrutal::load(Options options) {
  libbpf_set_print(to_debug_log);
  if (const auto missing = missing_capabilities(); !missing.empty()) {
    return fail(ErrorKind::denied, "loading the BPF controller needs " + missing);
  }
  const std::unique_ptr<btf, FreeBtf> kernel(btf__load_vmlinux_btf());
  if (!kernel) return fail(ErrorKind::system, "this kernel tells no types (no /sys/kernel/btf/vmlinux)");
  const unsigned arguments = control_arguments(kernel.get());
  if (arguments != 2 && arguments != 4)
    return fail(ErrorKind::system, "this kernel's congestion controllers are of an unknown kind");
  const bool link = options.link && btf__find_by_name_kind(kernel.get(), "bpf_struct_ops_link", BTF_KIND_STRUCT) > 0;
  remove_leftovers();

  auto brutal = std::unique_ptr<BpfBrutal>(new BpfBrutal);
  brutal->name_ = own_name();
  brutal->state_ = std::make_unique<State>();
  State& state = *brutal->state_;
  state.object.reset(bpf_object__open_mem(
      qtrp_brutal_object, static_cast<std::size_t>(qtrp_brutal_object_end - qtrp_brutal_object), nullptr));
  if (!state.object) return fail_errno("open the BPF controller", errno);
  bpf_object* object = state.object.get();

  const bool recent = arguments == 4;
  bpf_map* ops = bpf_object__find_map_by_name(object, recent ? "qtrp_brutal" : "qtrp_brutal_2");
  bpf_map* other_ops = bpf_object__find_map_by_name(object, recent ? "qtrp_brutal_2" : "qtrp_brutal");
  bpf_program* other = bpf_object__find_program_by_name(object, recent ? "brutal_control_2" : "brutal_control");
  if (ops == nullptr || other_ops == nullptr || other == nullptr)
    return fail(ErrorKind::system, "the BPF controller is damaged");
  bpf_map__set_autocreate(other_ops, false);
  bpf_program__set_autoload(other, false);
  if (link) bpf_map__set_map_flags(ops, bpf_map__map_flags(ops) | kLinkFlag);
  std::size_t size = 0;
  auto* value = static_cast<char*>(bpf_map__initial_value(ops, &size));
  const std::string_view placeholder("qtrp\0\0\0\0\0\0\0\0\0\0\0\0", 16);
  const auto at = value == nullptr ? std::string_view::npos : std::string_view(value, size).find(placeholder);
  if (at == std::string_view::npos) return fail(ErrorKind::system, "this libbpf can't name a congestion controller");
  std::memcpy(value + at, brutal->name_.data(), brutal->name_.size());

  if (const int error = bpf_object__load(object); error != 0) return fail_errno("load the BPF controller", -error);
  state.link.reset(bpf_map__attach_struct_ops(ops));
  if (!state.link) return fail_errno("register the BPF controller", errno);
  state.targets = bpf_object__find_map_fd_by_name(object, "targets");
  state.states = bpf_object__find_map_fd_by_name(object, "states");
  return brutal;
}

Result<void> BpfBrutal::set_target(int fd, std::uint64_t bytes_per_second, std::chrono::microseconds minimum_rto) {
  const brutal_target target{bytes_per_second, static_cast<std::uint64_t>(minimum_rto.count())};
  if (const int error = bpf_map_update_elem(state_->targets, &fd, &target, BPF_ANY); error != 0) {
    return fail_errno("tell the BPF controller a rate", -error);
  }
  return {};
}

std::optional<BpfBrutal::Figures> BpfBrutal::figures(int fd) const {
  brutal_state state{};
  if (bpf_map_lookup_elem(state_->states, &fd, &state) != 0 || state.arrived_ppm == 0) return std::nullopt;
  return Figures{.ack_rate = static_cast<double>(state.arrived_ppm) / 1e6, .bytes_per_second = state.bytes_per_second};
}

}  // namespace qtrp::pacing
