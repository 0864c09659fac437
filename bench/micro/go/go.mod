module qtrp/bench/micro

go 1.18

require (
	github.com/hashicorp/yamux v0.1.2
	github.com/xtaci/smux v1.5.57
)
