package peers

import ()
