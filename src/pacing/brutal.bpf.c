// SPDX-License-Identifier: MIT OR GPL-2.0-only
// Brutal as a TCP congestion controller in BPF (struct_ops): the rate that user space names, divided by the share of packets that arrive.
// The arithmetic is that of include/qtrp/pacing/brutal.h and ack_rate.h. Compiled once, runs everywhere: the kernel types below name only the
// fields that are used, and their offsets are relocated when the program is loaded (CO-RE).
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#include <bpf/bpf_helpers.h>

#include "brutal_bpf.h"

// From the kernel's user interface (linux/bpf.h), whose header needs more of the system than a BPF target has.
#define BPF_MAP_TYPE_SK_STORAGE 24
#define BPF_F_NO_PREALLOC 1
#define BPF_SK_STORAGE_GET_F_CREATE 1

#define SK_PACING_NONE 0
#define SK_PACING_NEEDED 1
#define TCP_CA_Loss 4
#define IPPROTO_TCP 6
#define TCP_BPF_RTO_MIN 1004  // microseconds
#define CA_EVENT_TX_START 0

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock {
  unsigned long sk_pacing_rate;
  unsigned long sk_max_pacing_rate;
  __u32 sk_pacing_status;
};
struct tcp_sock {
  __u32 srtt_us;  // eighths of a microsecond
  __u32 mss_cache;
  __u32 snd_cwnd;
  __u32 snd_cwnd_clamp;
  __u64 bytes_sent;  // payload, retransmissions too
};
struct rate_sample {
  int losses;
  __u32 acked_sacked;
};
#pragma clang attribute pop

// libbpf fits this to the kernel's own structure, member by member; of the functions it wants only that they are functions.
typedef void (*event_handler)(__u64 *ctx);
typedef __u32 (*question)(__u64 *ctx);
struct tcp_congestion_ops {
  event_handler init, cong_control, set_state, cwnd_event;
  question ssthresh, undo_cwnd, sndbuf_expand;
  char name[16];
};

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct brutal_target);
} targets SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct brutal_state);
} states SEC(".maps");

#define SECOND 1000000000ULL
#define MILLION 1000000ULL
#define MINIMUM_SAMPLES 50
#define MINIMUM_WINDOW 10
#define ASSUMED_RTT_US 100000
#define UNSET_RATE 125000  // before user space named a target: 1 Mbit/s
#define MAXIMUM_RATE 100000000000ULL
// Late timers and a sender that was not scheduled leave the link unused for moments. Up to so much time may be made up for, at so much more
// than the rate: over any second that stays within 2 % of it.
#define CREDIT_NS 15000000ULL
#define CATCH_UP_PERCENT 10

static __always_inline void count(struct brutal_state *state, __u32 acknowledged, __u32 lost) {
  __u64 second = bpf_ktime_get_ns() / SECOND;
  struct brutal_slot *slot = &state->slots[second & (BRUTAL_SLOTS - 1)];
  if (slot->second != second) {
    slot->second = second;
    slot->acknowledged = 0;
    slot->lost = 0;
  }
  slot->acknowledged += acknowledged;
  slot->lost += lost;

  __u64 good = 0, bad = 0;
  for (int i = 0; i < BRUTAL_SLOTS; i++) {
    if (state->slots[i].second + BRUTAL_WINDOW > second) {
      good += state->slots[i].acknowledged;
      bad += state->slots[i].lost;
    }
  }
  __u64 arrived = MILLION;
  if (good + bad >= MINIMUM_SAMPLES) arrived = good * MILLION / (good + bad);
  state->arrived_ppm = arrived;
}

// Keeps account of what the rate would have sent and what was sent; true while the connection is behind.
static __always_inline int behind(struct brutal_state *state, struct tcp_sock *tp, __u64 rate) {
  __u64 now = bpf_ktime_get_ns(), elapsed = now - state->accounted_ns, sent = tp->bytes_sent - state->accounted_bytes;
  state->accounted_ns = now;
  state->accounted_bytes = tp->bytes_sent;
  if (elapsed > SECOND) elapsed = SECOND;
  __s64 limit = rate / 1000 * CREDIT_NS / MILLION;
  __s64 credit = state->credit_bytes + (__s64)(rate / 1000 * elapsed / MILLION) - (__s64)sent;
  if (credit > limit) credit = limit;
  if (credit < -limit) credit = -limit;
  state->credit_bytes = credit;
  return credit > 0;
}

static __always_inline void steer(struct sock *sk, struct brutal_state *state) {
  struct tcp_sock *tp = (struct tcp_sock *)sk;  // the verifier knows every sock here as a tcp_sock
  struct brutal_target *target = bpf_sk_storage_get(&targets, sk, 0, 0);
  __u64 rate = target ? target->bytes_per_second : 0;
  if (rate == 0) rate = UNSET_RATE;
  if (rate > MAXIMUM_RATE) rate = MAXIMUM_RATE;
  __u64 arrived = state ? state->arrived_ppm : MILLION;
  if (arrived < BRUTAL_FLOOR_PPM) arrived = BRUTAL_FLOOR_PPM;
  rate = rate * MILLION / arrived;

  __u64 srtt = tp->srtt_us >> 3;
  if (srtt == 0) srtt = ASSUMED_RTT_US;
  __u64 mss = tp->mss_cache;
  if (mss == 0) mss = 1;
  // In kB, since rate * round trip may not fit 64 bits.
  __u64 window = rate / 1000 * srtt / 1000 * 2 / mss;
  if (window < MINIMUM_WINDOW) window = MINIMUM_WINDOW;
  if (window > tp->snd_cwnd_clamp) window = tp->snd_cwnd_clamp;
  tp->snd_cwnd = window;

  if (state) {
    if (target && target->minimum_rto_us != 0 && target->minimum_rto_us != state->minimum_rto_us) {
      state->minimum_rto_us = target->minimum_rto_us;
      int minimum_rto = target->minimum_rto_us;
      bpf_setsockopt(sk, IPPROTO_TCP, TCP_BPF_RTO_MIN, &minimum_rto, sizeof minimum_rto);
    }
    state->bytes_per_second = rate;
    if (behind(state, tp, rate)) rate += rate / 100 * CATCH_UP_PERCENT;
  }
  if (rate > sk->sk_max_pacing_rate) rate = sk->sk_max_pacing_rate;
  sk->sk_pacing_rate = rate;
  // TCP then paces by itself; a socket that the fq queueing discipline paces is left to it.
  if (sk->sk_pacing_status == SK_PACING_NONE) sk->sk_pacing_status = SK_PACING_NEEDED;
}

static __always_inline void steer_unchanged(struct sock *sk) { steer(sk, bpf_sk_storage_get(&states, sk, 0, 0)); }

static __always_inline void on_ack(struct sock *sk, const struct rate_sample *rs) {
  struct brutal_state *state = bpf_sk_storage_get(&states, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (state) count(state, rs->acked_sacked, rs->losses > 0 ? rs->losses : 0);
  steer(sk, state);  // without memory for a state: at the plain target
}

SEC("struct_ops/brutal_init")
void brutal_init(__u64 *ctx) {
  struct sock *sk = (struct sock *)ctx[0];
  struct brutal_state *state = bpf_sk_storage_get(&states, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (state) {
    if (state->arrived_ppm == 0) state->arrived_ppm = MILLION;
    state->accounted_ns = bpf_ktime_get_ns();
    state->accounted_bytes = ((struct tcp_sock *)sk)->bytes_sent;
    state->credit_bytes = 0;
  }
  steer(sk, state);
}

// Since Linux 6.10: (sk, ack, flag, rs).
SEC("struct_ops/brutal_control")
void brutal_control(__u64 *ctx) { on_ack((struct sock *)ctx[0], (const struct rate_sample *)ctx[3]); }

// Before: (sk, rs).
SEC("struct_ops/brutal_control_2")
void brutal_control_2(__u64 *ctx) { on_ack((struct sock *)ctx[0], (const struct rate_sample *)ctx[1]); }

// A retransmission time-out sets the window to almost nothing; give it back.
SEC("struct_ops/brutal_set_state")
void brutal_set_state(__u64 *ctx) {
  if ((__u8)ctx[1] == TCP_CA_Loss) steer_unchanged((struct sock *)ctx[0]);
}

// The target may have changed while the connection was idle.
SEC("struct_ops/brutal_cwnd_event")
void brutal_cwnd_event(__u64 *ctx) {
  if ((__u32)ctx[1] == CA_EVENT_TX_START) steer_unchanged((struct sock *)ctx[0]);
}

SEC("struct_ops/brutal_ssthresh")
__u32 brutal_ssthresh(__u64 *ctx) { return 0x7fffffff; }

SEC("struct_ops/brutal_undo_cwnd")
__u32 brutal_undo_cwnd(__u64 *ctx) {
  struct tcp_sock *tp = (struct tcp_sock *)ctx[0];
  return tp->snd_cwnd;
}

// Where the kernel tunes the send buffer: hold 4 windows of 2 round trips, for what waits for its third retransmission.
SEC("struct_ops/brutal_sndbuf_expand")
__u32 brutal_sndbuf_expand(__u64 *ctx) { return 4; }

// User space loads the one whose cong_control fits the kernel, and gives it a name of its own first.
#define BRUTAL_OPS(control)                                                                      \
  {                                                                                              \
    .init = brutal_init, .cong_control = control, .set_state = brutal_set_state,                 \
    .cwnd_event = brutal_cwnd_event, .ssthresh = brutal_ssthresh, .undo_cwnd = brutal_undo_cwnd, \
    .sndbuf_expand = brutal_sndbuf_expand, .name = "qtrp"                                        \
  }
SEC(".struct_ops") struct tcp_congestion_ops qtrp_brutal = BRUTAL_OPS(brutal_control);
SEC(".struct_ops") struct tcp_congestion_ops qtrp_brutal_2 = BRUTAL_OPS(brutal_control_2);

char LICENSE[] SEC("license") = "Dual MIT/GPL";
