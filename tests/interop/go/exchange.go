// What is said on the streams: the opener sends a head (seed, request size, response size; 8 bytes each, big endian) and the request,
// then FIN; the other end answers at the same time with the response and, once it has read everything, the request's checksum and FIN.
// Requests are the pattern of the seed, responses that of seed + 1 (conversation.cpp is the mirror of this in C++).
//
// A smux stream of the library's own says FIN only after it has read the answer: once both directions have ended, the library (1.5.57)
// drops what its reader has not taken yet. The test's streams do half-close, with every library.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const chunk = 1 << 16

func fill(b []byte, seed, offset uint64) {
	for i := range b {
		at := offset + uint64(i)
		word := (at/8+1)*0x9E3779B97F4A7C15 + seed*0xD6E8FEB86659FD93
		b[i] = byte((word ^ (word >> 29)) >> (at % 8 * 8))
	}
}

func send(w io.Writer, seed, size uint64) error {
	b := make([]byte, chunk)
	for at := uint64(0); at < size; {
		n := uint64(len(b))
		if size-at < n {
			n = size - at
		}
		fill(b[:n], seed, at)
		if _, err := w.Write(b[:n]); err != nil {
			return fmt.Errorf("write at %d of %d: %w", at, size, err)
		}
		at += n
	}
	return nil
}

// receive reads size patterned bytes and returns their checksum (FNV-1a over 64 bits).
func receive(r io.Reader, seed, size uint64, pause func(at uint64)) (uint64, error) {
	sum := uint64(0xcbf29ce484222325)
	b, want := make([]byte, chunk), make([]byte, chunk)
	for at := uint64(0); at < size; {
		limit := uint64(len(b))
		if size-at < limit {
			limit = size - at
		}
		n, err := r.Read(b[:limit])
		if n == 0 && err != nil {
			return 0, fmt.Errorf("read at %d of %d: %w", at, size, err)
		}
		fill(want[:n], seed, at)
		for i := 0; i < n; i++ {
			if b[i] != want[i] {
				return 0, fmt.Errorf("wrong byte at %d of %d", at+uint64(i), size)
			}
			sum = (sum ^ uint64(b[i])) * 0x100000001b3
		}
		at += uint64(n)
		if pause != nil {
			pause(at)
		}
	}
	return sum, nil
}

func expectEOF(r io.Reader) error {
	n, err := r.Read(make([]byte, 1))
	if n != 0 || err != io.EOF {
		return fmt.Errorf("expected the end, got %d bytes and %v", n, err)
	}
	return nil
}

func request(s session, seed, size, answer uint64) error {
	st, err := s.Open()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer st.Close()
	sum := make(chan uint64, 1)
	write := func() error {
		var head [24]byte
		binary.BigEndian.PutUint64(head[0:], seed)
		binary.BigEndian.PutUint64(head[8:], size)
		binary.BigEndian.PutUint64(head[16:], answer)
		if _, err := st.Write(head[:]); err != nil {
			return err
		}
		if err := send(st, seed, size); err != nil {
			return err
		}
		own := uint64(0xcbf29ce484222325)
		b := make([]byte, chunk)
		for at := uint64(0); at < size; at += chunk {
			n := uint64(chunk)
			if size-at < n {
				n = size - at
			}
			fill(b[:n], seed, at)
			for _, v := range b[:n] {
				own = (own ^ uint64(v)) * 0x100000001b3
			}
		}
		sum <- own
		if *protocol == "yamux" {
			return st.CloseWrite()
		}
		return nil
	}
	read := func() error {
		if _, err := receive(st, seed+1, answer, nil); err != nil {
			return err
		}
		var told [8]byte
		if _, err := io.ReadFull(st, told[:]); err != nil {
			return fmt.Errorf("checksum: %w", err)
		}
		if err := expectEOF(st); err != nil {
			return err
		}
		if own := <-sum; own != binary.BigEndian.Uint64(told[:]) {
			return errors.New("the peer saw another request")
		}
		return nil
	}
	if err := all(write, read); err != nil {
		return fmt.Errorf("own stream %d (%d, %d): %w", seed, size, answer, err)
	}
	return nil
}

func respond(st stream, pause func(at uint64)) error {
	var head [24]byte
	if _, err := io.ReadFull(st, head[:]); err != nil {
		return fmt.Errorf("head: %w", err)
	}
	seed, size, answer := binary.BigEndian.Uint64(head[0:]), binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint64(head[16:])
	var sum uint64
	err := all(func() (err error) {
		if sum, err = receive(st, seed, size, pause); err == nil {
			err = expectEOF(st)
		}
		return err
	}, func() error { return send(st, seed+1, answer) })
	if err != nil {
		return fmt.Errorf("stream %d (%d, %d): %w", seed, size, answer, err)
	}
	var told [8]byte
	binary.BigEndian.PutUint64(told[:], sum)
	if _, err := st.Write(told[:]); err != nil {
		return err
	}
	return st.Close()
}

// serve accepts and answers count streams.
func serve(s session, count int, pause func(number int, at uint64)) error {
	tasks := make(chan error, count)
	for i := 0; i < count; i++ {
		st, err := s.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func(number int) {
			if pause == nil {
				tasks <- respond(st, nil)
				return
			}
			tasks <- respond(st, func(at uint64) { pause(number, at) })
		}(i)
	}
	for i := 0; i < count; i++ {
		if err := <-tasks; err != nil {
			return err
		}
	}
	return nil
}

// sizes of the i-th stream's request and response, from nothing to big.
func sizes(i int, big uint64) (uint64, uint64) {
	switch {
	case i == 0:
		return big, 1
	case i == 1:
		return 0, big
	case i%40 == 2:
		return 1 << 20, 300000
	case i%40 == 3:
		return 70000, 1 << 20
	default:
		return uint64(i*i*7) % 20000, uint64(i*31) % 9000
	}
}

// exchange opens and serves streams at the same time.
func exchange(s session, opens, serves int, big uint64) error {
	tasks := []func() error{func() error { return serve(s, serves, nil) }}
	for i := 0; i < opens; i++ {
		i := i
		tasks = append(tasks, func() error {
			size, answer := sizes(i, big)
			return request(s, uint64(i), size, answer)
		})
	}
	return all(tasks...)
}

// closer takes one stream, reads a little of it and closes it, as the libraries' users do: FIN, then silence (smux).
func closer(s session) error {
	st, err := s.Accept()
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(st, make([]byte, 1000)); err != nil {
		return err
	}
	return st.Close()
}

// slow stops reading its first stream for two seconds after 100 KB, while the others must go on.
func slow(s session, serves int) error {
	return serve(s, serves, func(number int, at uint64) {
		if number == 0 && at > 100000 && at < 100000+chunk {
			time.Sleep(2 * time.Second)
		}
	})
}

// goAway says it wants no more streams while one of the test's is under way.
func goAway(s session) error {
	st, err := s.Accept()
	if err != nil {
		return err
	}
	if err := s.GoAway(); err != nil {
		return err
	}
	return respond(st, nil)
}

// leave opens a stream until the test's go away has arrived, then finishes one that was open before.
func leave(s session) error {
	st, err := s.Open()
	if err != nil {
		return err
	}
	if _, err := st.Write(make([]byte, 24)); err != nil { // head of an empty exchange
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		more, err := s.Open()
		if err != nil {
			if !strings.Contains(err.Error(), "remote end is not accepting") {
				return fmt.Errorf("open after go away: %w", err)
			}
			break
		}
		more.Close()
		if time.Now().After(deadline) {
			return errors.New("the go away never arrived")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := st.CloseWrite(); err != nil { // only yamux comes here
		return err
	}
	if _, err := io.ReadFull(st, make([]byte, 8)); err != nil {
		return fmt.Errorf("finish after go away: %w", err)
	}
	return expectEOF(st)
}

// reset takes one stream and expects it to be cut off: by a reset in yamux, by the end in smux. Then it opens one of its own.
func reset(s session) error {
	st, err := s.Accept()
	if err != nil {
		return err
	}
	for b := make([]byte, chunk); ; {
		if _, err = st.Read(b); err != nil {
			break
		}
	}
	if *protocol == "yamux" && !strings.Contains(err.Error(), "reset") {
		return fmt.Errorf("expected a reset, got %v", err)
	}
	if *protocol != "yamux" && err != io.EOF {
		return fmt.Errorf("expected the end, got %v", err)
	}
	if err := st.Close(); err != nil {
		return err
	}
	// Tells the test that the reset was seen: the end of the connection would overtake it at a waiting reader. The test checks
	// that it comes, and may end the connection before Open has returned.
	s.Open()
	return nil
}
