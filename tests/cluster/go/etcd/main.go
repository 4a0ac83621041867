// Command etcd is etcd's server, built by a module whose go.sum pins all that it is made of.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
