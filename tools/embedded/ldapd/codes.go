package ldapd

import "fmt"

// Code is an LDAP result code (RFC 4511 section 4.1.9, RFC 4528, RFC 5805).
type Code int

// The result codes this server answers with, and those that hooks want to answer with.
const (
	Success                      Code = 0
	OperationsError              Code = 1
	ProtocolError                Code = 2
	TimeLimitExceeded            Code = 3
	SizeLimitExceeded            Code = 4
	CompareFalse                 Code = 5
	CompareTrue                  Code = 6
	AuthMethodNotSupported       Code = 7
	AdminLimitExceeded           Code = 11
	UnavailableCriticalExtension Code = 12
	NoSuchAttribute              Code = 16
	ConstraintViolation          Code = 19
	AttributeOrValueExists       Code = 20
	NoSuchObject                 Code = 32
	InvalidDNSyntax              Code = 34
	InvalidCredentials           Code = 49
	InsufficientAccessRights     Code = 50
	Busy                         Code = 51
	Unavailable                  Code = 52
	UnwillingToPerform           Code = 53
	NamingViolation              Code = 64
	ObjectClassViolation         Code = 65
	NotAllowedOnNonLeaf          Code = 66
	NotAllowedOnRDN              Code = 67
	EntryAlreadyExists           Code = 68
	AssertionFailed              Code = 122
)

// resultError is an answer other than success.
type resultError struct {
	code    Code
	text    string
	matched string // the deepest ancestor that exists, for NoSuchObject
}

// Error implements error.
func (e *resultError) Error() string { return fmt.Sprintf("%s (code %d)", e.text, e.code) }

// refuse makes the answer of an operation that is not done.
func refuse(code Code, format string, args ...any) *resultError {
	return &resultError{code: code, text: fmt.Sprintf(format, args...)}
}

// The object identifiers of the root DSE (RFC 4512 section 5.1).
const (
	oidStartTLS       = "1.3.6.1.4.1.1466.20037"
	oidWhoAmI         = "1.3.6.1.4.1.4203.1.11.3"
	oidNotice         = "1.3.6.1.4.1.1466.20036"
	oidTxnStart       = "1.3.6.1.1.21.1"
	oidTxnControl     = "1.3.6.1.1.21.2"
	oidTxnEnd         = "1.3.6.1.1.21.3"
	oidPaged          = "1.2.840.113556.1.4.319"
	oidAssertion      = "1.3.6.1.1.12"
	oidIncrement      = "1.3.6.1.1.14"
	attrObjectClass   = "objectclass"
	attrUserPassword  = "userpassword"
	noAttributes      = "1.1"
	allAttributes     = "*"
	allOperational    = "+"
	supportedVersion  = "3"
	vendorDescription = "mailmux embedded directory"
)
