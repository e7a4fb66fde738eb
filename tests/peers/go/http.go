package main

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// httpServe serves HTTP/1.1 and HTTP/2 without TLS by Go's own server; gives the address. Of every so many
// responses one ends its connection, as a handler asks for that: by `Connection: close`, or by GOAWAY.
func httpServe(fields map[string]string) (any, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	every := int64(number(fields, "every"))
	var served atomic.Int64
	answer := func(out http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		if every > 0 && served.Add(1)%every == 0 {
			out.Header().Set("Connection", "close")
		}
		io.WriteString(out, "fine")
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: http.HandlerFunc(answer), Protocols: protocols}
	go server.Serve(listener)
	return listener.Addr().String(), nil
}
