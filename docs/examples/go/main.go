// Produce, consume, and consume as a member of a group, over gRPC.
//
//	go generate                                            # once: needs protoc
//	go run . produce 127.0.0.1:9400,127.0.0.1:9401 clicks < lines.txt
//	go run . consume 127.0.0.1:9400 clicks
//	go run . group 127.0.0.1:9400 clicks billing [RECORDS [SESSION_MS]]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
)

//go:generate protoc --proto_path=../../../proto --plugin=protoc-gen-go=./protoc-gen-go.sh --plugin=protoc-gen-go-grpc=./protoc-gen-go-grpc.sh --go_out=. --go-grpc_out=. jangada/v1/common.proto jangada/v1/metadata.proto jangada/v1/log.proto jangada/v1/group.proto

func run(ctx context.Context, arguments []string) error {
	if len(arguments) < 3 {
		return fmt.Errorf("usage: produce|consume|group BROKERS TOPIC [GROUP [RECORDS [SESSION_MS]]]")
	}
	cluster := NewCluster(arguments[1])
	defer cluster.Close()
	topic := arguments[2]
	switch arguments[0] {
	case "produce":
		return produce(ctx, cluster, topic, os.Stdin)
	case "consume":
		return consume(ctx, cluster, topic, os.Stdout)
	case "group":
		return consumeAsMember(ctx, cluster, topic, arguments[3:], os.Stdout)
	default:
		return fmt.Errorf("%s is none of produce, consume, group", arguments[0])
	}
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}
