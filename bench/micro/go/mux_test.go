// The work of ../mux_bench.cpp with the Go libraries, over an in-memory pipe: go test -bench . (compare with build/<preset>/bench/mux_bench).
package micro

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
	"github.com/xtaci/smux"
)

// half is one direction of the pipe: a bounded buffer.
type half struct {
	lock   sync.Mutex
	change *sync.Cond
	buffer []byte
	begin  int
	count  int
	closed bool
}

func newHalf() *half {
	h := &half{buffer: make([]byte, 1<<20)}
	h.change = sync.NewCond(&h.lock)
	return h
}

func (h *half) Read(p []byte) (int, error) {
	h.lock.Lock()
	defer h.lock.Unlock()
	for h.count == 0 {
		if h.closed {
			return 0, io.EOF
		}
		h.change.Wait()
	}
	end := h.begin + h.count
	if end > len(h.buffer) {
		end = len(h.buffer)
	}
	n := copy(p, h.buffer[h.begin:end])
	h.begin = (h.begin + n) % len(h.buffer)
	h.count -= n
	h.change.Broadcast()
	return n, nil
}

func (h *half) Write(p []byte) (int, error) {
	written := 0
	h.lock.Lock()
	defer h.lock.Unlock()
	for len(p) > 0 {
		for h.count == len(h.buffer) && !h.closed {
			h.change.Wait()
		}
		if h.closed {
			return written, io.ErrClosedPipe
		}
		at := (h.begin + h.count) % len(h.buffer)
		room := len(h.buffer) - h.count
		if at+room > len(h.buffer) {
			room = len(h.buffer) - at
		}
		n := copy(h.buffer[at:at+room], p)
		h.count += n
		written += n
		p = p[n:]
		h.change.Broadcast()
	}
	return written, nil
}

func (h *half) close() {
	h.lock.Lock()
	h.closed = true
	h.change.Broadcast()
	h.lock.Unlock()
}

type end struct{ in, out *half }

func (e end) Read(p []byte) (int, error)  { return e.in.Read(p) }
func (e end) Write(p []byte) (int, error) { return e.out.Write(p) }
func (e end) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

type ends struct {
	open   func() (io.ReadWriteCloser, error)
	accept func() (io.ReadWriteCloser, error)
	close  func()
}

func pair(protocol string) ends {
	a, b := newHalf(), newHalf()
	if protocol == "yamux" {
		config := yamux.DefaultConfig()
		config.EnableKeepAlive = false
		config.LogOutput = io.Discard
		client, _ := yamux.Client(end{a, b}, config)
		server, _ := yamux.Server(end{b, a}, config)
		return ends{
			func() (io.ReadWriteCloser, error) { return client.OpenStream() },
			func() (io.ReadWriteCloser, error) { return server.AcceptStream() },
			func() { client.Close(); server.Close() },
		}
	}
	config := smux.DefaultConfig()
	config.Version = 2
	config.MaxFrameSize = 65535
	config.MaxReceiveBuffer = 16 << 20
	config.MaxStreamBuffer = 2 << 20
	client, _ := smux.Client(end{a, b}, config)
	server, _ := smux.Server(end{b, a}, config)
	return ends{
		func() (io.ReadWriteCloser, error) { return client.OpenStream() },
		func() (io.ReadWriteCloser, error) { return server.AcceptStream() },
		func() { client.Close(); server.Close() },
	}
}

func BenchmarkThroughput(b *testing.B) {
	for _, protocol := range []string{"smux", "yamux"} {
		for _, size := range []int{65536, 1024} {
			for _, streams := range []int{1, 100, 10000} {
				b.Run(fmt.Sprintf("%s/write:%d/streams:%d", protocol, size, streams), func(b *testing.B) {
					both := pair(protocol)
					defer both.close()
					writers := make([]io.ReadWriteCloser, streams)
					var read sync.WaitGroup
					read.Add(b.N)
					go func() {
						for i := 0; i < streams; i++ {
							stream, err := both.accept()
							if err != nil {
								return
							}
							go func() {
								buffer := make([]byte, size)
								for {
									if _, err := io.ReadFull(stream, buffer); err != nil {
										return
									}
									read.Done()
								}
							}()
						}
					}()
					for i := range writers {
						stream, err := both.open()
						if err != nil {
							b.Fatal(err)
						}
						writers[i] = stream
					}
					b.SetBytes(int64(size))
					b.ResetTimer()
					buffer := make([]byte, size)
					for i, writer := range writers {
						share := b.N / streams
						if i < b.N%streams {
							share++
						}
						go func(writer io.Writer, share int) {
							for ; share > 0; share-- {
								writer.Write(buffer)
							}
						}(writer, share)
					}
					read.Wait()
				})
			}
		}
	}
}

func BenchmarkOpenAndClose(b *testing.B) {
	for _, protocol := range []string{"smux", "yamux"} {
		b.Run(protocol, func(b *testing.B) {
			both := pair(protocol)
			defer both.close()
			go func() {
				for {
					stream, err := both.accept()
					if err != nil {
						return
					}
					stream.Close()
				}
			}()
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				stream, err := both.open()
				if err != nil {
					b.Fatal(err)
				}
				stream.Close()
			}
		})
	}
}

func BenchmarkIdleStreams(b *testing.B) {
	const streams = 10000
	for _, protocol := range []string{"smux", "yamux"} {
		b.Run(protocol, func(b *testing.B) {
			for i := 0; i < b.N; i++ {
				both := pair(protocol)
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				kept := make([]io.ReadWriteCloser, 0, 2*streams)
				for j := 0; j < streams; j++ {
					stream, err := both.open()
					if err != nil {
						b.Fatal(err)
					}
					other, err := both.accept()
					if err != nil {
						b.Fatal(err)
					}
					kept = append(kept, stream, other)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				used := after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse
				b.ReportMetric(float64(used)/(2*streams), "bytes_per_idle_stream")
				runtime.KeepAlive(kept)
				both.close()
			}
		})
	}
}
