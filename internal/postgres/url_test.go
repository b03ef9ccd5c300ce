package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"iam-service/internal/postgres"
)

func TestAnInvalidURLIsExplainedWithoutShowingIt(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://iam:s3cret@db/iam?sslmode=verfy-full":                  "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
		"host=db password=s3cret sslmode=yes":                              "sslmode must be one of",
		"postgres://iam:s3cret@db:99999/iam":                               "the port must be a number from 1 to 65535",
		"postgres://iam:s3cret@db/iam?sslmode=require&sslrootcert=/s3cret": "names a file that cannot be read",
		"postgres://iam:s3cret/x@db/iam":                                   "a password in a URL must be percent-encoded",
		"nonsense s3cret":                                                  "neither postgres://user:password@host:port/database nor key=value pairs",
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			err := postgres.CheckURL(url)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v, want %q", err, want)
			}
			if strings.Contains(want, "sslmode") || strings.Contains(want, "port must") {
				if err != nil && strings.Contains(err.Error(), "percent") {
					t.Errorf("advice on percent-encoding: %v", err)
				}
			}
		})
	}
	if err := postgres.CheckURL("postgres://iam:p%2Fw@db:5432/iam?sslmode=require"); err != nil {
		t.Error(err)
	}
}

func TestAPasswordIsNeverShown(t *testing.T) {
	t.Parallel()
	for u, good := range map[string]bool{
		"postgres://u:s3cret@h/db?sslmode=disable": true, "postgres://h/db?user=u&password=s3cret": true, "host=h password=s3cret": true,
		"postgres://u:5/s3cret@h/db": false, "postgres://u:12#s3cret@h/db": false, "postgres://u:s3cret@h:port/db": false, "s3cret": false,
	} {
		t.Run(u, func(t *testing.T) {
			t.Parallel()
			err := postgres.CheckURL(u)
			if (err == nil) != good {
				t.Error(err)
			}
			if shown := fmt.Sprint(postgres.Server(u), err); strings.Contains(shown, "s3cret") {
				t.Errorf("%s shows the password", shown)
			}
		})
	}
}
