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

// Server names the server that a connection string leads to, and nothing else of
// it: a password that was not percent-encoded ends up in any other part.
func Server(connString string) string {
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return "(a connection string that cannot be read)"
	}
	return net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
}

// CheckURL says what is wrong with a connection string, without showing it.
func CheckURL(connString string) error {
	cfg, err := pgconn.ParseConfig(connString)
	switch {
	case err != nil:
		return errors.New(whyUnreadable(connString))
	case strings.Contains(cfg.Database, "@") || strings.Contains(connString, "#"):
		return errors.New("it looks as if the password were not percent-encoded (# is %23, / is %2F, @ is %40)")
	}
	return nil
}

// whyUnreadable says what is wrong with a connection string that cannot be read, without showing more of it than the
// name of a setting: a password that was not percent-encoded may be anywhere.
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
