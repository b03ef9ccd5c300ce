package postgres

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Server returns host and port of a connection string, and nothing else of it: a password that
// is not percent-encoded may end up in any other part.
func Server(connString string) string {
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return "(an unreadable connection string)"
	}
	return net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
}

// CheckURL validates a connection string. Its errors do not show the string.
func CheckURL(connString string) error {
	cfg, err := pgconn.ParseConfig(connString)
	switch {
	case err != nil:
		return errors.New(whyUnreadable(connString))
	case strings.Contains(cfg.Database, "@") || strings.Contains(connString, "#"):
		return errors.New("the password does not seem to be percent-encoded (# is %23, / is %2F, @ is %40)")
	}
	return nil
}

// whyUnreadable explains why a connection string cannot be parsed. It shows no more of it than the name of a
// setting: a password that is not percent-encoded may be anywhere.
func whyUnreadable(connString string) string {
	u, err := url.Parse(connString)
	switch {
	case err == nil && u.Query().Has("sslmode") && !slices.Contains(sslModes, u.Query().Get("sslmode")):
		return "sslmode must be one of " + strings.Join(sslModes, ", ")
	case err == nil && u.Port() != "" && !validPort(u.Port()):
		return "the port must be a number from 1 to 65535"
	case err == nil && u.Host != "" && (u.Scheme == "postgres" || u.Scheme == "postgresql"):
		return "one of its settings has a value that is not allowed, or names a file that cannot be read (sslrootcert, sslcert, sslkey, connect_timeout)"
	}
	if _, after, ok := strings.Cut(connString, "sslmode="); ok {
		if mode, _, _ := strings.Cut(after, " "); !slices.Contains(sslModes, mode) {
			return "sslmode must be one of " + strings.Join(sslModes, ", ")
		}
	}
	return "it is neither postgres://user:password@host:port/database nor key=value pairs; a password in a URL must be percent-encoded"
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

func validPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= 65535
}
