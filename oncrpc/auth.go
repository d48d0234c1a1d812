package oncrpc

import "rpcward/xdr"

// AuthFlavor names a kind of credential. RFC 5531, Section 8.2.
type AuthFlavor uint32

// Flavors that servers meet.
const (
	AuthNone  AuthFlavor = 0 // AUTH_NONE, RFC 5531, Section 10.1
	AuthSys   AuthFlavor = 1 // AUTH_SYS, RFC 5531, Appendix A
	AuthShort AuthFlavor = 2 // AUTH_SHORT, RFC 5531, Appendix A
	AuthDH    AuthFlavor = 3 // AUTH_DH, RFC 2695
	RPCSecGSS AuthFlavor = 6 // RPCSEC_GSS, RFC 2203
	AuthTLS   AuthFlavor = 7 // AUTH_TLS, RFC 9289
)

// MaxAuthBytes is the longest body of a credential or verifier, in bytes.
// RFC 5531, Section 8.2 (opaque_auth).
const MaxAuthBytes = 400

// Limits of AUTH_SYS. RFC 5531, Appendix A (authsys_parms).
const (
	maxMachineName = 255
	maxGIDs        = 16
)

// OpaqueAuth is a credential or a verifier, RFC 5531, Section 8.2.
// The zero value is AUTH_NONE.
type OpaqueAuth struct {
	Flavor AuthFlavor
	Body   []byte
}

func readAuth(r *xdr.Reader) OpaqueAuth {
	return OpaqueAuth{Flavor: AuthFlavor(r.Uint32()), Body: r.Opaque(MaxAuthBytes)}
}

func appendAuth(b []byte, a OpaqueAuth) []byte {
	b = xdr.AppendUint32(b, uint32(a.Flavor))
	return xdr.AppendOpaque(b, a.Body)
}

// SysCred is the body of an AUTH_SYS credential. RFC 5531, Appendix A.
// Nothing in it is proof of anything: any peer may claim any user.
type SysCred struct {
	Stamp   uint32
	Machine string
	UID     uint32
	GID     uint32
	GIDs    []uint32
}

// AppendSysCred appends c as the body of an OpaqueAuth.
func AppendSysCred(b []byte, c *SysCred) []byte {
	b = xdr.AppendUint32(b, c.Stamp)
	b = xdr.AppendString(b, c.Machine)
	b = xdr.AppendUint32(b, c.UID)
	b = xdr.AppendUint32(b, c.GID)
	b = xdr.AppendUint32(b, uint32(len(c.GIDs)))
	for _, g := range c.GIDs {
		b = xdr.AppendUint32(b, g)
	}
	return b
}

// checkSys reports whether body is a well-formed AUTH_SYS credential. Bytes
// behind it are ignored, as every server does.
func checkSys(body []byte) bool {
	r := xdr.NewReader(body)
	r.Uint32()
	r.Opaque(maxMachineName)
	r.Uint32()
	r.Uint32()
	n := r.Uint32()
	if n > maxGIDs {
		return false
	}
	for range n {
		r.Uint32()
	}
	return r.Err() == nil
}

// CheckCred tells what a server without keys of its own says to the call's
// credential: AuthOK for AUTH_NONE and for a well-formed AUTH_SYS, and for
// others the reason for which they are denied.
func (c *Call) CheckCred() AuthStat {
	switch c.Cred.Flavor {
	case AuthNone:
		return AuthOK
	case AuthSys:
		if checkSys(c.Cred.Body) {
			return AuthOK
		}
		return AuthBadCred
	case AuthDH:
		return AuthFailed
	case RPCSecGSS:
		return AuthBadCred
	default:
		return AuthRejectedCred
	}
}
