// The memory layout of ngtcp2 1.11.0's internal congestion-control structures, as far as a controller meets them. Not
// part of ngtcp2's public API: valid for exactly that version (CMake checks it; congestion_test proves the behaviour).
#pragma once

#include <ngtcp2/ngtcp2.h>

#include <cstddef>
#include <cstdint>

extern "C" {

struct qtrp_cc_packet {  // one packet that was sent, acknowledged or lost
  std::int64_t number;
  std::size_t length;
  int space;  // packet number space
  ngtcp2_tstamp sent;
  std::uint64_t lost_before;  // connection's lost bytes when it was sent
  std::uint64_t in_flight;    // including itself, when it was sent
  int application_limited;
};

struct qtrp_cc_ack {  // one ACK frame's outcome
  std::uint64_t prior_in_flight;
  std::uint64_t delivered;
  std::uint64_t lost;
  std::uint64_t delivered_when_sent;
  ngtcp2_tstamp largest_sent;
  ngtcp2_duration rtt;  // UINT64_MAX: none
};

struct qtrp_cc_stat {  // the connection's recovery state, shared with the controller
  ngtcp2_duration latest_rtt, min_rtt, smoothed_rtt, rttvar, initial_rtt;
  ngtcp2_tstamp first_rtt_sample;
  std::size_t pto_count;
  ngtcp2_tstamp loss_timer;
  ngtcp2_tstamp last_sent[3];  // by packet number space
  ngtcp2_tstamp loss_time[3];
  std::uint64_t cwnd;
  std::uint64_t ssthresh;
  ngtcp2_tstamp recovery_start;
  std::uint64_t in_flight;
  std::size_t packet_size;
  std::uint64_t delivery_rate;  // bytes per second
  ngtcp2_duration pacing_interval;
  std::size_t send_quantum;
};

struct qtrp_cc {  // the table of callbacks; each may be null
  void* log;
  void (*on_acked)(qtrp_cc*, qtrp_cc_stat*, const qtrp_cc_packet*, ngtcp2_tstamp);
  void (*on_lost)(qtrp_cc*, qtrp_cc_stat*, const qtrp_cc_packet*, ngtcp2_tstamp);
  void (*congestion_event)(qtrp_cc*, qtrp_cc_stat*, ngtcp2_tstamp sent, std::uint64_t lost, ngtcp2_tstamp);
  void (*on_spurious_congestion)(qtrp_cc*, qtrp_cc_stat*, ngtcp2_tstamp);
  void (*on_persistent_congestion)(qtrp_cc*, qtrp_cc_stat*, ngtcp2_tstamp);
  void (*on_ack)(qtrp_cc*, qtrp_cc_stat*, const qtrp_cc_ack*, ngtcp2_tstamp);
  void (*on_sent)(qtrp_cc*, qtrp_cc_stat*, const qtrp_cc_packet*);
  void (*new_rtt_sample)(qtrp_cc*, qtrp_cc_stat*, ngtcp2_tstamp);
  void (*reset)(qtrp_cc*, qtrp_cc_stat*, ngtcp2_tstamp);
  void (*event)(qtrp_cc*, qtrp_cc_stat*, int what, ngtcp2_tstamp);
};

struct qtrp_cc_reno {  // what Reno's initialiser is given: the table and eight bytes of its own
  qtrp_cc cc;
  std::uint64_t own;
};

void __real_ngtcp2_cc_reno_init(qtrp_cc_reno* reno, void* log);
void __wrap_ngtcp2_cc_reno_init(qtrp_cc_reno* reno, void* log);
}

static_assert(sizeof(qtrp_cc) == 11 * sizeof(void*) && sizeof(qtrp_cc_reno) == 12 * sizeof(void*));
