package main

import (
	"context"
	"fmt"
)

type benchCmd struct{}

// Run measures.
func (benchCmd) Run(context.Context) error { return fmt.Errorf("x") }
