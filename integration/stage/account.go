package stage

// Account is one entry of the directory, and a user of both Dovecots.
type Account struct {
	Login    string   // the canonical login name: attributes uid of the entry
	Mail     []string // its addresses; the login name when absent
	Password string
	Host     string // hostServer
	OldHost  string // oldHostServer
	Status   string // mailUserStatus, absent when ""
}

// The names of the host table that the accounts use.
const (
	Back1    = "back1.example.com" // Dovecot, reached in the clear
	Back2    = "back2.example.com" // Dovecot, reached with STARTTLS
	Back3    = "back3.example.com" // the first Dovecot again, reached with implicit TLS
	PostHost = "post.example.com"  // Postfix
	SelfHost = "self.example.com"  // a mistake: the frontend itself
)

// FakeHost is the host table's name of a member that a test plays; FakeLogin is the account that lives there.
func FakeHost(behaviour string) string { return behaviour + ".fake.example.com" }

// FakeLogin is the login name of the account whose home is FakeHost(behaviour).
func FakeLogin(behaviour string) string { return behaviour + "@fake.example.com" }

// FakePassword is the password of every account of a fake member.
const FakePassword = "fake"

// Behaviours returns what the members do that tests play.
func Behaviours() []string {
	return []string{"dead", "silent", "closing", "garbage", "endless", "wrongname", "notls", "injecting", "refusing", "recording"}
}

// LongPassword is longer than a POP3 or an SMTP command line may be, and needs a literal or a SASL response.
var LongPassword = longPassword(400)

func longPassword(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[i%36]
	}
	return string(b)
}

// Accounts returns the people of the stage: first the ordinary ones, then those with awkward names and passwords, then
// those that may not log in.
func Accounts() []Account {
	people := []Account{
		{Login: "ann@example.com", Password: "sesame", Host: Back1, Mail: []string{"ann@example.com", "ann.other@example.com"}},
		{Login: "bob@example.com", Password: "open", Host: Back2},
		{Login: "carl@example.com", Password: "sinbad", Host: Back3},
		{Login: "dora@example.org", Password: "lamp", Host: Back1},
		{Login: "eve@example.com", Password: "thieves", Host: "BACK1.Example.COM"},
		// Gets the mail that tests send, so that the others have in their mailbox what they put there.
		{Login: "letters@example.com", Password: "letters", Host: Back1},
		{Login: "pete@example.com", Password: "post", Host: PostHost},

		// Names and passwords that have broken a proxy somewhere.
		{Login: "j\u00fcrgen@example.com", Mail: []string{"juergen@example.com"}, Password: "Gr\u00fc\u00dfe \u20ac \u2603", Host: Back1},
		{Login: "o'hara@example.com", Password: `qu"ote and back\slash`, Host: Back2},
		{Login: "odd#{!}@example.com", Password: `a{3}+} % & ^ ~`, Host: Back1},
		{Login: "spacey@example.com", Password: "  two spaces each side  ", Host: Back2},
		{Login: "long@example.com", Password: LongPassword, Host: Back1},
		{Login: "colon@example.com", Password: "a:b:c=,", Host: Back1},
		{Login: "equals=sign@example.com", Password: "=", Host: Back2},

		{Login: "held@example.com", Password: "held", Host: Back1, Status: "hold"},
		{Login: "gone@example.com", Password: "gone", Host: Back1, Status: "disabled"},
		{Login: "odd@example.com", Password: "odd", Host: Back1, Status: "frobnicated"},
		{Login: "lost@example.com", Password: "lost", Host: "nowhere.example.com"},
		{Login: "homeless@example.com", Password: "homeless"},
		{Login: "self@example.com", Password: "self", Host: SelfHost},
		// Two entries with the same address: neither may be served under it.
		{Login: "twin1@example.com", Mail: []string{"twin@example.com"}, Password: "twin", Host: Back1},
		{Login: "twin2@example.com", Mail: []string{"twin@example.com"}, Password: "twin", Host: Back2},
	}
	for _, b := range Behaviours() {
		people = append(people, Account{Login: FakeLogin(b), Password: FakePassword, Host: FakeHost(b)})
	}
	return people
}
