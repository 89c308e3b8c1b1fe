package nat

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/ti-mo/conntrack"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	maxFilter = 4096    // instructions that the kernel takes (BPF_MAXINSNS)
	accept    = 1 << 18 // bytes: all of it
	header    = 20      // before the attributes of a message: struct nlmsghdr, struct nfgenmsg
	nfFamily  = 16      // where nfgenmsg has it
)

// next stands for a jump to the end of a rule until the rule is whole.
var next = bpf.Jump{Skip: math.MaxUint32}

// filterFor lets those messages about connections through under which one of the addresses stands for another one: so the socket's buffer holds one message for each such
// connection, and none of the many others. Where there are more addresses than a filter can hold, and for none, every translated connection passes.
func filterFor(addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	program := append(attribute(ctaStatus),
		bpf.LoadIndirect{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: uint32(conntrack.StatusSrcNAT | conntrack.StatusDstNAT), SkipTrue: 1}, bpf.RetConstant{})
	if precise := append(slices.Clone(program), rules(addrs)...); len(addrs) > 0 && len(precise) <= maxFilter {
		return bpf.Assemble(precise)
	}
	return bpf.Assemble(append(program, bpf.RetConstant{Val: accept}))
}

func rules(addrs []netip.Addr) (out []bpf.Instruction) {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	for _, r := range []rule{
		{unix.AF_INET, v4, side{ctaTupleReply, ctaIPv4Dst}, side{ctaTupleOrig, ctaIPv4Src}},
		{unix.AF_INET, v4, side{ctaTupleOrig, ctaIPv4Dst}, side{ctaTupleReply, ctaIPv4Src}},
		{unix.AF_INET6, v6, side{ctaTupleReply, ctaIPv6Dst}, side{ctaTupleOrig, ctaIPv6Src}},
		{unix.AF_INET6, v6, side{ctaTupleOrig, ctaIPv6Dst}, side{ctaTupleReply, ctaIPv6Src}},
	} {
		if len(r.addrs) > 0 {
			out = append(out, r.program()...)
		}
	}
	return append(out, bpf.RetConstant{})
}

// rule accepts a connection whose one side is one of the addresses, while the other is not: without translation they were equal.
type rule struct {
	family     uint32
	addrs      []netip.Addr
	one, other side
}

// side is an address of one direction of a connection.
type side struct{ tuple, address uint32 }

func (r *rule) program() []bpf.Instruction {
	words := len(r.addrs[0].AsSlice()) / 4
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: nfFamily, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.family, SkipTrue: 1}, next}
	p = append(p, attribute(r.one.tuple, ctaTupleIP, r.one.address)...)
	for i := range words {
		p = append(p, bpf.LoadIndirect{Off: 4 + 4*uint32(i), Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: i})
	}
	p = append(p, oneOf(r.addrs, words)...)
	p = append(p, attribute(r.other.tuple, ctaTupleIP, r.other.address)...)
	p = append(p, bpf.TXA{}, bpf.StoreScratch{Src: bpf.RegA, N: words})
	for i := range words {
		p = append(p, bpf.LoadScratch{Dst: bpf.RegX, N: words}, bpf.LoadIndirect{Off: 4 + 4*uint32(i), Size: 4}, bpf.LoadScratch{Dst: bpf.RegX, N: i},
			bpf.JumpIfX{Cond: bpf.JumpNotEqual, SkipTrue: uint8(4*(words-1-i) + 1)})
	}
	p = append(p, next, bpf.RetConstant{Val: accept})
	for i := range p {
		if p[i] == next {
			p[i] = bpf.Jump{Skip: uint32(len(p) - i - 1)}
		}
	}
	return p
}

// oneOf goes on if the words in the scratch memory are one of the addresses, else to the next rule.
func oneOf(addrs []netip.Addr, words int) (p []bpf.Instruction) {
	each := 2*words + 1
	for n, a := range addrs {
		for i := range words {
			p = append(p, bpf.LoadScratch{Dst: bpf.RegA, N: i},
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(a.AsSlice()[4*i:]), SkipTrue: uint8(each - 2*i - 2)})
		}
		p = append(p, bpf.Jump{Skip: uint32((len(addrs)-n-1)*each + 1)})
	}
	return append(p, next)
}

// attribute leaves in X where an attribute of the message lies, nested in others.
func attribute(path ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: header}}
	extension := bpf.ExtNetlinkAttr
	for _, kind := range path {
		p = append(p, bpf.LoadConstant{Dst: bpf.RegX, Val: kind}, bpf.LoadExtension{Num: extension})
		extension = bpf.ExtNetlinkAttrNested
	}
	return append(p, bpf.TAX{})
}

// filterRules lets through one message for each change of nftables' rules in a namespace: that they are of another generation.
func filterRules() []bpf.RawInstruction {
	const kind = 4 // where nlmsghdr has it, in the machine's order
	var generation [2]byte
	binary.NativeEndian.PutUint16(generation[:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
	filter, _ := bpf.Assemble([]bpf.Instruction{ // these can be assembled
		bpf.LoadAbsolute{Off: kind, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(generation[:])), SkipTrue: 1},
		bpf.RetConstant{},
		bpf.RetConstant{Val: accept},
	})
	return filter
}
