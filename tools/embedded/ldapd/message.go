package ldapd

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// defaultMaxMessage bounds a request, in bytes.
const defaultMaxMessage = 1 << 20

// errTooLong ends a connection whose client announces a message above the bound.
var errTooLong = errors.New("message is longer than the server accepts")

// The tags of RFC 4511: protocol operations (application class) and their parts (context class).
const (
	tagBindRequest     ber.Tag = 0
	tagBindResponse    ber.Tag = 1
	tagUnbindRequest   ber.Tag = 2
	tagSearchRequest   ber.Tag = 3
	tagSearchEntry     ber.Tag = 4
	tagSearchDone      ber.Tag = 5
	tagModifyRequest   ber.Tag = 6
	tagModifyResponse  ber.Tag = 7
	tagAddRequest      ber.Tag = 8
	tagAddResponse     ber.Tag = 9
	tagDelRequest      ber.Tag = 10
	tagDelResponse     ber.Tag = 11
	tagModDNRequest    ber.Tag = 12
	tagModDNResponse   ber.Tag = 13
	tagCompareRequest  ber.Tag = 14
	tagCompareResponse ber.Tag = 15
	tagAbandonRequest  ber.Tag = 16
	tagExtRequest      ber.Tag = 23
	tagExtResponse     ber.Tag = 24

	tagControls      ber.Tag = 0
	tagSimpleAuth    ber.Tag = 0
	tagExtName       ber.Tag = 0
	tagExtValue      ber.Tag = 1
	tagResponseName  ber.Tag = 10
	tagResponseValue ber.Tag = 11
)

// message is one request, taken apart as far as every operation needs it.
type message struct {
	id       int64
	op       *ber.Packet
	controls []control
}

// control is a request control (RFC 4511 section 4.1.11).
type control struct {
	oid      string
	critical bool
	value    string
}

// control finds a control by its identifier.
func (m *message) control(oid string) (control, bool) {
	for _, c := range m.controls {
		if c.oid == oid {
			return c, true
		}
	}
	return control{}, false
}

// readFrame reads the bytes of one LDAP message. The length is checked before anything is kept, and memory is taken only
// as bytes arrive.
func readFrame(r *bufio.Reader, limit int) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		if errors.Is(err, io.EOF) && len(head) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if head[0] != byte(ber.ClassUniversal)|byte(ber.TypeConstructed)|byte(ber.TagSequence) {
		return nil, fmt.Errorf("message begins with %#02x, not with a sequence", head[0])
	}
	size, header := int(head[1]), 2
	if head[1] >= 0x80 {
		octets := int(head[1] & 0x7f)
		if octets == 0 || octets > 4 { // RFC 4511 section 5.1: definite lengths only
			return nil, errTooLong
		}
		if head, err = r.Peek(2 + octets); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		size, header = 0, 2+octets
		for _, b := range head[2:] {
			size = size<<8 | int(b)
		}
	}
	if size > limit {
		return nil, errTooLong
	}
	frame, err := io.ReadAll(io.LimitReader(r, int64(header+size)))
	if err != nil {
		return nil, err
	}
	if len(frame) < header+size {
		return nil, io.ErrUnexpectedEOF
	}
	return frame, nil
}

// parseMessage takes LDAPMessage apart. Any error is a protocol error of the client.
func parseMessage(frame []byte) (*message, error) {
	p, err := ber.DecodePacketErr(frame)
	if err != nil {
		return nil, err
	}
	id, ok := integer(child(p, 0))
	op := child(p, 1)
	if !ok || id < 1 || id > 1<<31-1 {
		return nil, errors.New("message has no valid ID")
	}
	if op == nil || op.ClassType != ber.ClassApplication {
		return nil, errors.New("message has no operation")
	}
	m := &message{id: id, op: op}
	if len(p.Children) < 3 {
		return m, nil
	}
	list := child(p, 2)
	if list.ClassType != ber.ClassContext || list.Tag != tagControls {
		return nil, errors.New("message has something other than controls behind the operation")
	}
	for _, c := range list.Children {
		parsed, ok := parseControl(c)
		if !ok {
			return nil, errors.New("control cannot be parsed")
		}
		m.controls = append(m.controls, parsed)
	}
	return m, nil
}

// parseControl reads type, criticality (default false) and value (may be absent).
func parseControl(p *ber.Packet) (control, bool) {
	if len(p.Children) < 1 || len(p.Children) > 3 {
		return control{}, false
	}
	c := control{oid: text(child(p, 0))}
	for _, part := range p.Children[1:] {
		switch part.Tag {
		case ber.TagBoolean:
			c.critical = boolean(part)
		case ber.TagOctetString:
			c.value = text(part)
		default:
			return control{}, false
		}
	}
	return c, true
}

// child is a part of a sequence, or nil. All readers of parts take nil, so that a short sequence is a wrong value and
// never a panic.
func child(p *ber.Packet, i int) *ber.Packet {
	if p == nil || i >= len(p.Children) {
		return nil
	}
	return p.Children[i]
}

// text is the content of a string, whatever its tag.
func text(p *ber.Packet) string {
	if p == nil {
		return ""
	}
	return p.Data.String()
}

// integer is the content of an INTEGER or ENUMERATED.
func integer(p *ber.Packet) (int64, bool) {
	if p == nil || p.ClassType != ber.ClassUniversal || (p.Tag != ber.TagInteger && p.Tag != ber.TagEnumerated) {
		return 0, false
	}
	if p.TagType != ber.TypePrimitive || p.Data.Len() == 0 {
		return 0, false
	}
	n, err := ber.ParseInt64(p.Data.Bytes())
	return n, err == nil
}

// boolean is the content of a BOOLEAN; anything but zero is true.
func boolean(p *ber.Packet) bool {
	return p != nil && p.Data.Len() == 1 && p.Data.Bytes()[0] != 0
}

// octets encodes a string of the universal class.
func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// number encodes an INTEGER.
func number(n int64) *ber.Packet {
	return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, n, "")
}

// enumerated encodes an ENUMERATED.
func enumerated(n int64) *ber.Packet {
	return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, n, "")
}

// sequence encodes a SEQUENCE of the parts.
func sequence(parts ...*ber.Packet) *ber.Packet {
	p := ber.NewSequence("")
	for _, part := range parts {
		p.AppendChild(part)
	}
	return p
}

// set encodes a SET of strings.
func set(values []string) *ber.Packet {
	p := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
	for _, v := range values {
		p.AppendChild(octets(v))
	}
	return p
}

// result encodes LDAPResult under the tag of the response (RFC 4511 section 4.1.9).
func result(tag ber.Tag, err *resultError) *ber.Packet {
	if err == nil {
		err = &resultError{}
	}
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	p.AppendChild(enumerated(int64(err.code)))
	p.AppendChild(octets(err.matched))
	p.AppendChild(octets(err.text))
	return p
}
