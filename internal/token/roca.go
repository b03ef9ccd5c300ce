package token

import "math/big"

// rocaPrimes are the first 39 primes without 2. Keys of the broken generator (CVE-2017-15361, ROCA)
// have primes of the form k·M + (65537^a mod M), where M is the product of at least these.
var rocaPrimes = []int64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
}

// roca reports whether a modulus has the fingerprint of that generator: it is a power of 65537
// modulo each of the primes. One of 2^27 other moduli has it by chance.
func roca(n *big.Int) bool {
	for _, p := range rocaPrimes {
		rest := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		power := int64(1)
		for power != rest {
			if power = power * 65537 % p; power == 1 {
				return false
			}
		}
	}
	return true
}
