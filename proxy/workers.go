package proxy

import (
	"net"
	"sync/atomic"
	"time"
)

// workers are the goroutines of sessions before their hand-over. One that has finished takes the next connection if
// there is one soon: its stack has grown to what a login needs, and growing a new one was measured at 4 % of a login.
type workers struct {
	next chan accepted // taken by those that are idle
	idle atomic.Int32
}

type accepted struct {
	conn     net.Conn
	listener Listener
}

const (
	maxIdleWorkers = 64
	idleWorker     = time.Second // how long one waits for the next connection
)

// begin starts the session of a connection, whose slot is taken.
func (srv *Server) begin(nc net.Conn, l Listener) {
	a := accepted{nc, l}
	select {
	case srv.workers.next <- a:
	default:
		srv.sessions.Go(func() { srv.work(a) })
	}
}

func (srv *Server) work(a accepted) {
	var patience *time.Timer
	for {
		srv.serve(a.conn, a.listener)
		a = accepted{}
		if srv.workers.idle.Add(1) > maxIdleWorkers {
			srv.workers.idle.Add(-1)
			return
		}
		if patience == nil {
			patience = time.NewTimer(idleWorker)
			defer patience.Stop()
		} else {
			patience.Reset(idleWorker)
		}
		more := true
		select {
		case a = <-srv.workers.next:
		case <-patience.C:
			more = false
		case <-srv.ctx.Done():
			more = false
		}
		srv.workers.idle.Add(-1)
		if !more {
			return
		}
	}
}
