package backend

import "math"

// hashString is FNV-1a of 64 bits. It has no seed: all frontends, restarted or not, have to come to the same member.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	return h
}

// mix spreads the bits of a hash (the finaliser of MurmurHash3), so that names that differ in one letter rank apart.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return h
}

// distanceTo is how far a key is from a member: the member of least distance has the key (rendezvous hashing, weighted
// by the method of Schindelhauer and Schomaker: -ln(u)/weight is exponentially distributed with the weight as rate, so
// the least of them is the member's with a chance of its weight's share). Losing a member changes no other distance, so
// only its keys move, spread over the others by weight.
//
// With equal weights the logarithm does not change the order and is left out; then the order is exact on any machine.
func distanceTo(key, seed uint64, weight float64, equal bool) float64 {
	u := mix(key^seed) >> 11 // 53 bits: exact as a float64
	if equal {
		return -float64(u)
	}
	return -math.Log((float64(u)+0.5)/(1<<53)) / weight
}
