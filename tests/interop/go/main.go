// The other end of the interoperability tests: the original Go libraries, driven over a TCP connection to the test. See exchange.go for
// what is said on the streams. Prints nothing on success; any deviation is an error on stderr and exit code 1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/xtaci/smux"
)

// stream is what both libraries' streams can do. CloseWrite sends FIN and still reads.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

type session interface {
	Open() (stream, error)
	Accept() (stream, error)
	Closed() <-chan struct{}
	GoAway() error
}

type smuxSession struct{ *smux.Session }

func (s smuxSession) Open() (stream, error)   { return s.OpenStream() }
func (s smuxSession) Accept() (stream, error) { return s.AcceptStream() }
func (s smuxSession) Closed() <-chan struct{} { return s.CloseChan() }
func (s smuxSession) GoAway() error           { return errors.New("smux has no go away") }

type yamuxSession struct{ *yamux.Session }

// yamuxStream: its Close is the half-close of the specification; reading goes on.
type yamuxStream struct{ *yamux.Stream }

func (s yamuxStream) CloseWrite() error { return s.Stream.Close() }

func (s yamuxSession) Open() (stream, error) {
	st, err := s.Session.OpenStream()
	return yamuxStream{st}, err
}
func (s yamuxSession) Accept() (stream, error) {
	st, err := s.Session.AcceptStream()
	return yamuxStream{st}, err
}
func (s yamuxSession) Closed() <-chan struct{} { return s.CloseChan() }
func (s yamuxSession) GoAway() error           { return s.Session.GoAway() }

var (
	address   = flag.String("connect", "", "address of the test")
	protocol  = flag.String("protocol", "smux2", "smux2, smux1 or yamux")
	client    = flag.Bool("client", false, "take the client's stream ids")
	scenario  = flag.String("scenario", "exchange", "what to do")
	opens     = flag.Int("open", 0, "streams to open")
	serves    = flag.Int("serve", 0, "streams to accept")
	big       = flag.Uint64("big", 0, "bytes of the largest stream")
	keepAlive = flag.Duration("keepalive", 0, "interval of keep-alives; time-out is three of them; 0: the library's defaults")
)

func newSession(conn net.Conn) (session, error) {
	if *protocol == "yamux" {
		config := yamux.DefaultConfig()
		if *keepAlive > 0 {
			config.KeepAliveInterval = *keepAlive
			config.ConnectionWriteTimeout = 3 * *keepAlive
		}
		construct := yamux.Server
		if *client {
			construct = yamux.Client
		}
		s, err := construct(conn, config)
		return yamuxSession{s}, err
	}
	config := smux.DefaultConfig()
	config.Version = 2
	if *protocol == "smux1" {
		config.Version = 1
	}
	if *keepAlive > 0 {
		config.KeepAliveInterval = *keepAlive
		config.KeepAliveTimeout = 3 * *keepAlive
	}
	construct := smux.Server
	if *client {
		construct = smux.Client
	}
	s, err := construct(conn, config)
	return smuxSession{s}, err
}

func run() error {
	conn, err := net.Dial("tcp", *address)
	if err != nil {
		return err
	}
	s, err := newSession(conn)
	if err != nil {
		return err
	}
	switch *scenario {
	case "exchange":
		err = exchange(s, *opens, *serves, *big)
	case "closer":
		err = closer(s)
	case "slow":
		err = slow(s, *serves)
	case "goaway":
		err = goAway(s)
	case "leave":
		err = leave(s)
	case "reset":
		err = reset(s)
	default:
		err = fmt.Errorf("unknown scenario %q", *scenario)
	}
	if err != nil {
		return err
	}
	// The test ends the connection, once it has what it waits for.
	ended := make(chan struct{})
	go func() {
		for {
			if _, err := s.Accept(); err != nil {
				close(ended)
				return
			}
		}
	}()
	select {
	case <-ended:
	case <-s.Closed():
	case <-time.After(60 * time.Second):
		return errors.New("the test did not end the connection")
	}
	return nil
}

// all runs every task at once and gives the first error.
func all(tasks ...func() error) error {
	var group sync.WaitGroup
	failures := make(chan error, len(tasks))
	for _, task := range tasks {
		group.Add(1)
		go func(task func() error) {
			defer group.Done()
			if err := task(); err != nil {
				failures <- err
			}
		}(task)
	}
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "interop peer (%s, %s): %v\n", *protocol, *scenario, err)
		os.Exit(1)
	}
}
