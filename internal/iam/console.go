package iam

import "time"

// ConsoleSession is a session of a person at the console, as it is stored: nothing in it can be read without the cookie.
type ConsoleSession struct {
	ID         []byte // SHA-256 of the cookie's id
	Person     []byte // SHA-256 of issuer and subject
	Sealed     []byte // the encrypted tokens
	IdleEndsAt time.Time
	EndsAt     time.Time
	Now        time.Time // the database's clock when it was read
}

// ConsoleLimits bound the sessions of the console.
type ConsoleLimits struct {
	Idle     time.Duration // without a request
	Lifetime time.Duration // since the login
	Sessions int           // of one person; a login ends the oldest
}
