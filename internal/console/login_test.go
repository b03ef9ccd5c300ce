package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestALoginThatWasNotBegunHereFails(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	in := func(b *browser, back, want string) {
		t.Helper()
		r := b.visit(back)
		if r.status != http.StatusSeeOther || r.header.Get("Location") != "./#/signed-out?error="+want {
			t.Errorf("callback responded %d %s, want %s", r.status, r.header.Get("Location"), want)
		}
		b.ended(want)
	}
	change := func(back, name, value string) string {
		u, err := url.Parse(back)
		s.ok(err)
		q := u.Query()
		q.Set(name, value)
		u.RawQuery = q.Encode()
		return u.String()
	}
	fresh := func() *browser { return s.browser(s.replicas[0]) }
	t.Run("another browser's: login CSRF", func(*testing.T) {
		attacker, victim := fresh(), fresh()
		back := attacker.consent(attacker.begin(""), "bob")
		in(victim, back, "login_expired")
		victim.begin("") // with a login of the victim's own under way
		in(victim, back, "login_failed")
	})
	t.Run("another state", func(*testing.T) {
		b := fresh()
		in(b, change(b.consent(b.begin(""), "bob"), "state", "AAAAAAAAAAAAAAAAAAAAAAAAAA"), "login_failed")
	})
	t.Run("another login's code: PKCE", func(*testing.T) {
		attacker, victim := fresh(), fresh()
		stolen, err := url.Parse(attacker.consent(attacker.begin(""), "bob"))
		s.ok(err)
		in(victim, change(victim.consent(victim.begin(""), "alice"), "code", stolen.Query().Get("code")), "login_failed")
	})
	t.Run("another provider's: mix-up", func(*testing.T) {
		b := fresh()
		in(b, change(b.consent(b.begin(""), "bob"), "iss", "https://evil.example"), "login_failed")
	})
	for name, of := range map[string]struct{ name, value string }{
		"another nonce":                {"nonce", "of-another-login"},
		"a token for another audience": {"audience", "elsewhere"},
	} {
		t.Run(name, func(*testing.T) {
			b := fresh()
			at, err := url.Parse(change(b.begin("").String(), of.name, of.value))
			s.ok(err)
			in(b, b.consent(at, "bob"), "login_failed")
		})
	}
	t.Run("denied", func(*testing.T) {
		b := fresh()
		in(b, b.consent(b.begin(""), "deny"), "access_denied")
	})
	t.Run("replayed", func(t *testing.T) {
		b := fresh()
		at := b.begin("")
		cookie, back := b.cookie("iam-console-login"), b.consent(at, "bob")
		if r := b.visit(back); r.header.Get("Location") != "./#/" {
			t.Fatalf("the first responded %s", r.header.Get("Location"))
		}
		in(fresh(), back, "login_expired")
		thief := fresh() // with the cookie too
		u, err := url.Parse(thief.console + "/")
		s.ok(err)
		cookie.Path = "/console/"
		thief.client.Jar.SetCookies(u, []*http.Cookie{cookie})
		in(thief, back, "login_failed")
	})
	t.Run("the provider is away", func(t *testing.T) {
		b := fresh()
		back := b.consent(b.begin(""), "bob")
		s.rauth.SetGone(true)
		defer s.rauth.SetGone(false)
		if r := b.visit(back); r.header.Get("Location") == "./#/" {
			t.Error("signed in without the provider")
		}
	})
}

func TestALoginReturnsToThePageAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	for _, to := range []string{"https://evil.example", "//evil.example", "/../evil", "#evil", "#//", "#/\r\nSet-Cookie: a=b", "#/<script>", "", "#/" + strings.Repeat("a", 3000), "./#/", "javascript:alert(1)", "#/ü"} {
		b := s.browser(s.replicas[0])
		r := b.visit(b.consent(b.begin("?return="+url.QueryEscape(to)), "tina"))
		got := r.header.Get("Location")
		if at, err := url.Parse(b.console + "/callback"); err != nil || got != "./#/" && (to != "#//" || got != "./#//") {
			t.Errorf("%q leads to %q", to, got)
		} else if end, err := at.Parse(got); err != nil || end.Host != at.Host || end.Path != "/console/" {
			t.Errorf("%q leads to %v", to, end)
		}
	}
}
