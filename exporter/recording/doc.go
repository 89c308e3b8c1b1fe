// Package recording keeps the kernel's records in a file, byte for byte, with what else the rest of the exporter was told when they
// came (the clock's anchor, the local end's name, ends of walks), and tells it all again in the same order.
//
// It understands neither records nor names: both are bytes of bounded size. [Writer] promises nothing before [Writer.Close], which
// marks the end: [Reader.Next] tells a recording that was cut off ([ErrCut]) from one that is complete ([io.EOF]), and hands over all
// that is whole before either. A file is read as if an enemy had written it.
package recording
