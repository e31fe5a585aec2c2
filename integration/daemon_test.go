package integration

import "mailmux/integration/stage"

type daemon struct{ *stage.Process }
