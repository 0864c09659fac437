/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 * What brutal.bpf.c and user space exchange through socket storage (one value a socket, looked up by its descriptor).
 */
#ifndef QTRP_PACING_BRUTAL_BPF_H
#define QTRP_PACING_BRUTAL_BPF_H

#define BRUTAL_WINDOW 5          /* seconds that the ack rate is measured over */
#define BRUTAL_SLOTS 8           /* of one second; a power of 2, whose mask the BPF verifier understands */
#define BRUTAL_FLOOR_PPM 800000U /* ack rate that is made up for at most, in millionths */

/* Written by user space, read by the controller. */
struct brutal_target {
  unsigned long long bytes_per_second;
  unsigned long long minimum_rto_us; /* 0: leave it to user space, which has a socket option for it since Linux 6.15 */
};

struct brutal_slot {
  unsigned long long second;
  unsigned int acknowledged, lost; /* packets */
};

/* Written by the controller, read by user space. */
struct brutal_state {
  struct brutal_slot slots[BRUTAL_SLOTS];
  unsigned long long arrived_ppm; /* measured ack rate in millionths, without the floor; 0: not a controlled socket */
  unsigned long long bytes_per_second; /* target / ack rate */
  unsigned long long accounted_ns, accounted_bytes;
  long long credit_bytes;            /* what the rate would have sent by now and was not */
  unsigned long long minimum_rto_us; /* set last */
};

#endif
